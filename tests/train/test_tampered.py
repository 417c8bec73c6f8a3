"""Checkpoints that were tampered with and have a right digest: they train, or are refused when they
are loaded, never later.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from campaign import numbers
from small_runs import SMALL

from trpo_fast.train import checkpoint
from trpo_fast.train.checkpoint import CheckpointError
from trpo_fast.train.trainer import TRPO

pytestmark = pytest.mark.attack

Where = tuple[Any, ...]


def leaves(tree: Any, where: Where = ()) -> Iterator[tuple[Where, Any]]:
    """The path of every leaf, and the leaf."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict | list | tuple):
            yield from leaves(value, (*where, key))
            yield (*where, key), value
        else:
            yield (*where, key), value


def put(tree: Any, where: Where, value: Any) -> Any:
    """The tree with another value there."""
    if not where:
        return value
    changed = dict(tree) if isinstance(tree, dict) else list(tree)
    changed[where[0]] = put(tree[where[0]], where[1:], value)
    return tuple(changed) if isinstance(tree, tuple) else changed


def mutants(value: Any) -> Iterator[Any]:
    """Other types, shapes, signs and ranges than a leaf has."""
    yield from (None, "word", [1], {"a": 1}, 0.5, np.zeros(3))
    if isinstance(value, torch.Tensor):
        yield from _of_tensor(value)
    elif isinstance(value, np.ndarray):
        for changed in _of_tensor(torch.from_numpy(value)):
            yield changed.numpy()
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float | np.generic):
        yield from (-value - 1, 0, 0.0, float("nan"), float("inf"), -1e30, 1e30, 1e300)
    elif isinstance(value, list | tuple):
        yield from (list(value)[:-1], [*value, *value], [])


def _of_tensor(value: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from (
        value[None],
        value.flatten()[:-1],
        torch.cat([value.flatten()] * 2),
        value.flatten(),
    )
    kinds = (torch.float32, torch.float64, torch.int64, torch.bool, torch.uint8)
    yield from (value.to(kind) for kind in kinds if kind != value.dtype)
    fills: list[Any] = [0, 1]
    if value.dtype not in (torch.bool, torch.uint8):
        yield -value - 1
    if value.is_floating_point():
        fills += [float("nan"), float("inf"), -1e30, 1e30]
    for fill in fills:
        yield torch.full_like(value, fill)
        if value.numel():
            first = value.clone(memory_format=torch.contiguous_format)
            first.view(-1)[0] = fill
            yield first


AGENTS: list[tuple[str, dict[str, Any]]] = [
    ("CartPole-v1", {"algorithm": "kl-penalty", "normalize_observations": True}),
    ("Pendulum-v1", {"normalize_rewards": True, "action_mode": "squash", "scale_kl": True}),
    ("CartPole-v1", {"engine": "tensor", "critic": "gauss_newton"}),
]


def trains_or_is_refused(path: Path, tree: dict[str, Any]) -> str | None:
    """What went wrong, or None."""
    checkpoint.save(path, tree)
    try:
        agent = TRPO.load(path)
    except CheckpointError:
        return None
    except Exception as error:
        return f"load: {type(error).__name__}: {error}"
    try:
        agent.learn(1)
    except Exception as error:
        return f"learn: {type(error).__name__}: {error}"
    finally:
        agent.close()
    return None


@pytest.mark.parametrize(("env", "settings"), AGENTS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_every_leaf_of_a_checkpoint_is_checked_when_it_is_loaded(
    env: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # thousands of files that nobody keeps
    small = SMALL | {"rows_per_update": 16, "hidden": (2,), "critic_hidden": (2,)}
    tree = TRPO(env, **small, **settings).learn(32).state()
    draw, failures = random.Random(0), []
    for where, value in leaves(tree):
        if where[:2] == ("envs", 1) or (where[0] == "config" and env != AGENTS[0][0]):
            continue  # as the first copy, as in the first agent
        others = list(mutants(value))
        for mutant in draw.sample(others, min(len(others), len(numbers(2)))):
            if where[0] == "config" and isinstance(mutant, float) and 1e30 <= mutant < np.inf:
                continue  # a setting, if not a good one
            why = trains_or_is_refused(tmp_path / "a", put(tree, where, mutant))
            if why:
                failures.append(f"{'/'.join(map(str, where))} = {mutant!r:.60}: {why[:150]}")
    assert not failures, "\n".join(failures)
