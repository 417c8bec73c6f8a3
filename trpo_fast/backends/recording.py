"""One recording of some work: what its replay reads and leaves, and whether that is what the work
itself leaves.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .._base.reads import ahead
from .recorder import Recorder
from .watch import Watch
from .work import Work

CLOSE = 1e-3  # a replay's results to those of the run, as shares of their norms
NUMBERS = 64  # what is shorter is no vector: each of its entries has to be close


@dataclass
class Recording:
    """What a replay reads and leaves. ``outside`` is memory that it reads beside its inputs."""

    recorder: Recorder
    inputs: dict[str, Tensor]
    results: Any
    outside: list[Tensor]

    @property
    def nbytes(self) -> int:
        return self.recorder.nbytes + sum(t.nbytes for t in self.inputs.values())

    @torch.inference_mode(False)
    @torch.no_grad()
    def replay(self, work: Work) -> Any:
        """The results for the inputs of some work; where they go elsewhere, the recording's own."""
        for name, place in self.inputs.items():
            place.copy_(work.inputs[name])
        self.recorder.replay()
        if work.into:
            return self.results
        return tree_map(lambda r: r.clone() if isinstance(r, Tensor) else r, self.results)


def recorded(work: Work, outside: dict[int, Tensor], recorder: Recorder) -> Recording:
    """A recording of some work, which reads memory ``outside`` that others own."""
    with torch.inference_mode(False), torch.no_grad():
        memory = [t.detach() for t in outside.values()]  # nothing of a parameter but where it lies
        inputs = {name: t.clone() for name, t in work.inputs.items()}
    for generator in work.generators:
        recorder.draws_from(generator)
    try:
        recorder.begin()
        watch = Watch(work.device, list(inputs.values()), work.written, work.generators)
        with ahead(), watch:
            results = work.run(inputs)
        if elsewhere := watch.outside.keys() - outside.keys():
            shape = list(watch.outside[elsewhere.pop()].shape)
            raise RuntimeError(f"an input {shape} is read from elsewhere as well")
    except BaseException:  # which says more than what the end of a broken recording raises
        with suppress(Exception):
            recorder.end()
        raise
    recorder.end()
    return Recording(recorder, inputs, results, memory)


@torch.inference_mode(False)
@torch.no_grad()
def copies(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.clone() for t in tensors)


@torch.inference_mode(False)
@torch.no_grad()
def write(places: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> None:
    for place, value in zip(places, values, strict=True):
        place.copy_(value)


class State:
    """All that some work writes and draws from, as it is now."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._tensors = copies(work.written)
        self._generators = [generator.get_state() for generator in work.generators]

    def put_back(self) -> None:
        write(self._work.written, self._tensors)
        for generator, state in zip(self._work.generators, self._generators, strict=True):
            generator.set_state(state)

    def since(self, before: State) -> list[Tensor]:
        """How far what is written has moved."""
        return [t - start for t, start in zip(self._tensors, before._tensors, strict=True)]


@torch.inference_mode(False)
@torch.no_grad()
def close(found: Any, expected: Any) -> bool:
    """Whether every tensor is the other up to rounding, NaN where that is NaN, and all else equal;
    waits.
    """
    for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if not isinstance(a, Tensor):
            if a != b:
                return False
            continue
        a, b = a.double(), b.double()
        if not torch.equal(a.isfinite(), b.isfinite()):
            return False
        a, b = a.nan_to_num(0.0, 0.0, 0.0), b.nan_to_num(0.0, 0.0, 0.0)
        size = float(b.norm())
        if float((a - b).norm()) > CLOSE * size:
            return False
        if a.numel() < NUMBERS and bool(((a - b).abs() > CLOSE * b.abs() + 1e-5 * size).any()):
            return False
    return True
