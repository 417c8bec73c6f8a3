"""A trained policy as a file that runs without this package: observations in, actions in the
environment's units out. Where the environment masks actions, the mask is a second input.

``.pt2`` is a torch.export program (``torch.export.load(path).module()(obs)``, without gradients),
``.onnx`` an ONNX model for any runtime. Both take a batch: torch.export fixes how many dimensions
an input has, so one observation is ``obs[None]``, or has a program of its own. Normalisation, the
most likely action, clipping or squashing and scaling are all inside; both files are checked against
``predict`` before the function returns. Of a policy with a memory the program is one step, which
takes the state of the step before and gives the next.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .._base import files
from .._base.arguments import fail
from .._base.rows import dotted_parts, map_rows
from .._base.seeds import derive
from ..learner.acting import acting_params, check_acts
from ..learner.normalise import ObservationNormaliser, normalised
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from ..policy.wrappers import unwrapped
from .agent import Agent
from .episodes import Evaluation
from .evaluate import evaluate
from .model_card import model_card
from .nets import example_obs
from .predict import ActingAgent

Inputs = dict[str, Any]  # "obs": rows of observations, what is remembered, and perhaps "mask"
Program = Callable[[Inputs], Any]  # to the action, or (action, state)


class Deployed(nn.Module):
    """obs [N, O], or dicts and tuples of tensors [N, ...] (and mask [N, Z] where actions are
    masked) -> actions [N, ...] of the space's shape and type, on the CPU.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        import copy

        policy = unwrapped(agent.policy)
        check_acts(policy)
        self.policy: Any = copy.deepcopy(policy).cpu().float()
        packaged = isinstance(self.policy, MLPPolicy | RecurrentPolicy)
        self.head: Any = self.policy.head if packaged else agent.head
        self.action_map = agent.collector.action_map
        self.clip: float | None = None
        self.vectors: Any = None  # the names of the buffers of every part's normaliser, or None
        normaliser = agent.normaliser
        if normaliser is None:
            return
        self.clip = normaliser.clip
        if isinstance(normaliser, ObservationNormaliser):
            self.vectors = self._kept(normaliser, "")
        else:
            numbers = itertools.count()
            self.vectors = map_rows(lambda one: self._kept(one, next(numbers)), normaliser.parts)

    def _kept(self, normaliser: ObservationNormaliser | None, number: Any) -> list[str] | None:
        """Keep a normaliser's numbers; the names of their buffers."""
        if normaliser is None:
            return None
        names = [f"shift{number}", f"scale{number}"]
        for name, value in zip(names, (normaliser.shift, normaliser.scale), strict=True):
            self.register_buffer(name, value.cpu().clone())
        return names

    def seen(self, obs: Any) -> Any:
        """Observations [N, O] as the policy sees them."""
        return obs if self.clip is None else map_rows(self._normalised, self.vectors, obs)

    def forward(self, obs: Any, mask: Tensor | None = None) -> Tensor:
        stored = self.head.mode(acting_params(self.policy, self.seen(obs), mask)[1])
        return self.action_map.device(stored)

    def _normalised(self, names: list[str] | None, part: Tensor) -> Tensor:
        if names is None:
            return part
        shift, scale = (self.get_buffer(name) for name in names)
        return normalised(part, shift, scale, self.clip or 0.0)


class Remembering(Deployed):
    """One step of a policy with a memory: obs [N, O], state [N, K] of the step before (zeros in the
    first), start [N] bool where an episode begins (and mask [N, Z]) -> (actions, state [N, K]).
    """

    def forward(  # type: ignore[override]
        self, obs: Tensor, state: Tensor, start: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        params, after = self.policy.step(self.seen(obs), state, start, mask)
        return self.action_map.device(self.head.mode(params)), after


class Single(nn.Module):
    """obs [O] (and mask [Z]) -> the action, of the space's shape."""

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, obs: Any, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.deployed(_row(obs), _row(mask))[0]
        return found


class SingleStep(Single):
    """obs [O], state [K], start [] (and mask [Z]) -> (action, state [K])."""

    def forward(  # type: ignore[override]
        self, obs: Tensor, state: Tensor, start: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        action, after = self.deployed(_row(obs), _row(state), _row(start), _row(mask))
        return action[0], after[0]


def _row(part: Any) -> Any:
    """One observation, or part of it, as one row."""
    return None if part is None else map_rows(lambda one: one[None], part)


def export(
    agent: ActingAgent,
    path: str | os.PathLike[str],
    *,
    rows: int = 64,
    single: bool = False,
    card: str | None = None,
    evaluation: Evaluation | None = None,
) -> Path:
    """Write the deterministic policy as ``.pt2`` or ``.onnx``, by the path's ending, and check it.

    The program takes any number of observations [N, O], or with ``single`` one [O], for which it
    gives one action. ``rows`` random observations must give the actions of ``predict``; otherwise
    nothing is written. ``card`` is the name of a model card to write beside it, such as README.md,
    with the returns of ``evaluation``, or of ten episodes that are played here.
    """
    path = Path(path)
    if card is not None and (Path(card).name != card or not card):
        raise fail("card", "the name of a file, such as README.md", repr(card))
    if path.suffix not in FORMATS:
        raise ValueError(f"path: expected an ending of {sorted(FORMATS)}, got {path.name!r}")
    write, run = FORMATS[path.suffix]
    remembers = agent.recurrent is not None
    deployed = (Remembering if remembers else Deployed)(agent).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(derive(agent.config.seed, "export"))
    inputs: Inputs = {"obs": _observations(agent, rows, generator)}
    if agent.recurrent is not None:
        size = agent.recurrent.state_size
        inputs["state"] = torch.randn(rows, size, device="cpu", generator=generator)
        inputs["start"] = torch.arange(rows, device="cpu") % 4 == 0
    if agent.collector.layout.mask_width:
        inputs["mask"] = _masks(agent.head.nvec, rows, generator)
    wanted: Any = agent.predict(
        inputs["obs"],
        state=inputs.get("state"),
        episode_start=inputs.get("start"),
        action_mask=inputs.get("mask"),
    )
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    with _quiet(), _without_validation():
        if single:
            each = [map_rows(lambda part: part[i], inputs) for i in range(rows)]  # noqa: B023
            kind = SingleStep if remembers else Single
            data = write(kind(deployed).eval(), each[0], None)
            program = run(data)
            answers = zip(*(_as_tuple(program(one)) for one in each), strict=True)
            got = tuple(torch.stack(parts) for parts in answers)
        else:
            data = write(deployed, inputs, torch.export.Dim("rows", min=1))
            got = _as_tuple(run(data)(inputs))
    for part, should_be in zip(got, wanted, strict=True):
        _compare(part, torch.as_tensor(should_be, device="cpu"), path)
    files.write(path, data)
    if card is not None:
        text = model_card(agent, evaluation or evaluate(agent), path.name, single=single)
        files.write(path.with_name(card), text.encode())
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch says on every export about itself and about packages that no policy
    needs.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed")

    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.addFilter(wanted)
    try:
        with warnings.catch_warnings():
            text = r"`isinstance\(treespec, LeafSpec\)` is deprecated"
            warnings.filterwarnings("ignore", text, FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: rows will not be used", UserWarning)
            yield
    finally:
        logger.removeFilter(wanted)


@contextlib.contextmanager
def _without_validation() -> Iterator[None]:
    """Distributions that do not look at their parameters, whose values a program has none of."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _observations(agent: Agent, rows: int, generator: torch.Generator) -> Any:
    obs = example_obs(agent.envs, rows, generator)
    normaliser = agent.normaliser
    if normaliser is None:
        return obs

    def raw(one: ObservationNormaliser | None, part: Tensor) -> Tensor:  # of the size it knows
        return part if one is None else part / one.scale.cpu() + one.shift.cpu()

    parts = normaliser if isinstance(normaliser, ObservationNormaliser) else normaliser.parts
    return map_rows(raw, parts, obs)


def _masks(nvec: Sequence[int], rows: int, generator: torch.Generator) -> Tensor:
    """[rows, Z] bool, about half of the choices of every component allowed, and one for certain."""
    parts = []
    for choices in nvec:
        draws = torch.rand((rows, choices), device="cpu", generator=generator)
        parts.append((draws < 0.5) | (draws == draws.amin(1, keepdim=True)))
    return torch.cat(parts, 1)


def _compare(got: Tensor, wanted: Tensor, path: Path) -> None:
    if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
        raise RuntimeError(
            f"the exported policy {path} gives {list(got.shape)} {got.dtype}, "
            f"predict {list(wanted.shape)} {wanted.dtype}"
        )
    if wanted.dtype.is_floating_point:
        same = torch.allclose(got, wanted, rtol=1e-5, atol=1e-5)
    else:  # two logits may be equal up to rounding
        same = float((got == wanted).double().mean()) > 0.99
    if not same:
        error = float((got.double() - wanted.double()).abs().max())
        raise RuntimeError(f"the exported policy {path} differs from predict by {error:.2e}")


def _dynamic(inputs: Inputs, rows: Any) -> Any:
    """For every input that its first dimension is the number of rows."""
    return None if rows is None else map_rows(lambda _: {0: rows}, inputs)


def _named(inputs: Inputs) -> dict[str, Tensor]:
    """Every tensor by the name that it has in an ONNX model: obs, or obs.camera of a dict."""
    named: dict[str, Tensor] = {}
    for name, rows in inputs.items():
        named |= dotted_parts(rows, name)
    return named


def _write_torch(module: nn.Module, inputs: Inputs, rows: Any) -> bytes:
    shapes = None if rows is None else tuple(_dynamic(inputs, rows).values())
    try:
        program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
    except Exception as error:  # of many kinds, whatever the module makes of what has no values
        raise fail("policy", "a module that torch.export takes", f"the error: {error}") from error
    data = io.BytesIO()
    torch.export.save(program, data)
    return data.getvalue()


def _run_torch(data: bytes) -> Program:
    program = torch.export.load(io.BytesIO(data)).module()
    return lambda inputs: program(*inputs.values())


def _as_tuple(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def _write_onnx(module: nn.Module, inputs: Inputs, rows: Any) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RuntimeError("export to .onnx needs onnx: pip install trpo-fast[export]") from error
    shapes: Any = _dynamic(inputs, rows)
    program: Any = torch.onnx.export(
        module,
        kwargs=inputs,  # a dict that came last among args would be taken for these
        input_names=list(_named(inputs)),
        output_names=["action", "state"] if "state" in inputs else ["action"],
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    return program.model_proto.SerializeToString()


def _run_onnx(data: bytes) -> Program:
    """By onnxruntime where it is installed, otherwise by ONNX's own reference evaluator."""
    try:
        import onnxruntime

        runner: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        runner = ReferenceEvaluator(data)

    def program(inputs: Inputs) -> Any:
        arrays = {name: value.numpy() for name, value in _named(inputs).items()}
        found = tuple(map(torch.as_tensor, runner.run(None, arrays)))
        return found if len(found) > 1 else found[0]

    return program


# By ending: what writes a module as bytes, and what makes a function of them.
FORMATS = {".pt2": (_write_torch, _run_torch), ".onnx": (_write_onnx, _run_onnx)}
