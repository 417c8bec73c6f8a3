"""A trained policy as a file that runs without this package: observations in, actions in the
environment's units out. Where the environment masks actions, the mask is a second input.

``.pt2`` is a torch.export program (``torch.export.load(path).module()(obs)``), ``.onnx`` an ONNX
model for any runtime. Normalisation, the most likely action, clipping or squashing and scaling are
all inside; both files are checked against ``predict`` before the function returns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .seeds import derive

if TYPE_CHECKING:
    from .trainer import TRPO


class Deployed(nn.Module):
    """obs [N, O] (and mask [N, Z] where actions are masked) -> actions [N, ...] of the space's
    shape and type, on the CPU.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, agent: TRPO) -> None:
        super().__init__()
        import copy

        self.net = copy.deepcopy(agent.policy.net).cpu().float()
        self.head = copy.deepcopy(agent.policy.head).cpu().float()
        self.action_map = agent.collector.action_map
        self.clip: float | None = None
        if agent.normaliser is not None:
            self.clip = agent.normaliser.clip
            self.register_buffer("shift", agent.normaliser.shift.cpu().clone())
            self.register_buffer("scale", agent.normaliser.scale.cpu().clone())

    def forward(self, obs: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.clip is not None:
            obs = ((obs - self.shift) * self.scale).clamp(-self.clip, self.clip)
        params = self.head.distribution_params(self.net(obs), mask=mask)
        stored = self.head.mode(params)
        return self.action_map.device(stored)


def export(agent: TRPO, path: str | os.PathLike[str], *, rows: int = 64) -> Path:
    """Write the deterministic policy as ``.pt2`` or ``.onnx``, by the path's ending, and check it.

    ``rows`` random observations must give the actions of ``predict``; otherwise nothing is left,
    and what was at ``path`` before stays.
    """
    path = Path(path)
    writers = {".pt2": (_write_torch, _run_torch), ".onnx": (_write_onnx, _run_onnx)}
    if path.suffix not in writers:
        raise ValueError(f"path: expected an ending of {sorted(writers)}, got {path.name!r}")
    write, run = writers[path.suffix]
    module = Deployed(agent).eval()
    generator = torch.Generator().manual_seed(derive(agent.config.seed, "export"))
    inputs = {"obs": _observations(agent, rows, generator)}
    if agent.collector.layout.mask_width:
        inputs["mask"] = _masks(agent.policy.head.nvec, rows, generator)
    draft = path.with_name(f"{path.stem}.draft{path.suffix}")
    try:
        write(module, inputs, draft)
        wanted = agent.predict(inputs["obs"], action_mask=inputs.get("mask"))
        _compare(run(draft, inputs), torch.as_tensor(wanted), path)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _observations(agent: TRPO, rows: int, generator: torch.Generator) -> Tensor:
    obs = torch.randn(rows, agent.policy.spec.widths[0], generator=generator)
    if agent.normaliser is not None:  # observations of the size that the policy knows
        obs = obs / agent.normaliser.scale.cpu() + agent.normaliser.shift.cpu()
    return obs


def _masks(nvec: Sequence[int], rows: int, generator: torch.Generator) -> Tensor:
    """[rows, Z] bool, about half of the choices of every component allowed, and one for certain."""
    parts = []
    for choices in nvec:
        draws = torch.rand(rows, choices, generator=generator)
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


def _write_torch(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    rows = torch.export.Dim("rows", min=1)
    given, shapes = tuple(inputs.values()), tuple({0: rows} for _ in inputs)
    program = torch.export.export(module, given, dynamic_shapes=shapes)
    torch.export.save(program, path)


def _run_torch(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.export.load(path).module()(*inputs.values())


def _write_onnx(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RuntimeError("export to .onnx needs onnx: pip install trpo-fast[export]") from error
    rows = torch.export.Dim("rows", min=1)
    shapes: Any = {name: {0: rows} for name in inputs}
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=["action"],
        dynamic_shapes=shapes,
        external_data=False,
        dynamo=True,
        verbose=False,
    )


def _run_onnx(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    """By onnxruntime where it is installed, otherwise by ONNX's own reference evaluator."""
    try:
        import onnxruntime

        runner: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        runner = ReferenceEvaluator(str(path))
    arrays = {name: value.numpy() for name, value in inputs.items()}
    return torch.from_numpy(runner.run(None, arrays)[0])
