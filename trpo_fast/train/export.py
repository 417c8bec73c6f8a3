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
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .._base import files
from .._base.arguments import fail
from .._base.rows import map_rows
from .._base.seeds import derive
from ..learner.normalise import ObservationNormaliser
from .agent import Agent
from .deployed import Deployed, Remembering, Single, SingleStep
from .episodes import Evaluation
from .evaluate import evaluate
from .export_formats import FORMATS, Inputs, as_tuple, quiet
from .model_card import model_card
from .nets import example_obs
from .predict import ActingAgent


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
    with quiet(), _without_validation():
        if single:
            each = [map_rows(lambda part: part[i], inputs) for i in range(rows)]  # noqa: B023
            kind = SingleStep if remembers else Single
            data = write(kind(deployed).eval(), each[0], None)
            program = run(data)
            answers = zip(*(as_tuple(program(one)) for one in each), strict=True)
            got = tuple(torch.stack(parts) for parts in answers)
        else:
            data = write(deployed, inputs, torch.export.Dim("rows", min=1))
            got = as_tuple(run(data)(inputs))
    for part, should_be in zip(got, wanted, strict=True):
        _compare(part, torch.as_tensor(should_be, device="cpu"), path)
    files.write(path, data)
    if card is not None:
        text = model_card(agent, evaluation or evaluate(agent), path.name, single=single)
        files.write(path.with_name(card), text.encode())
    return path


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
