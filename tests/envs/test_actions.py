"""From stored actions to an environment's: units, shapes, types, and bounds that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from gymnasium import spaces

from trpo_fast.envs.actions import ActionMap

pytestmark = pytest.mark.attack

HUGE = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("space", "mode", "stored", "wanted"),
    [
        (spaces.Box(-2, 4, (2,)), "clip", [[-3.0, 1.0]], [[-2.0, 1.0]]),
        (spaces.Box(-2, 4, (2,)), "scale", [[-3.0, 0.5]], [[-2.0, 2.5]]),
        (spaces.Box(-2, 4, (1,)), "squash", [[0.5]], [[1.0 + 3.0 * np.tanh(0.5)]]),
        (spaces.Box(-2, 4, (2,)), "beta", [[0.25, 0.75]], [[-0.5, 2.5]]),
        (spaces.Box(-HUGE, HUGE, (1,)), "beta", [[1.0], [0.5]], [[HUGE], [0.0]]),
        (spaces.Box(-np.inf, np.inf, (1,)), "scale", [[7.0]], [[7.0]]),
        (spaces.Box(0, 1, (2, 2)), "clip", [[0.5, 2.0, -1.0, 0.0]], [[[0.5, 1.0], [0.0, 0.0]]]),
        (spaces.Box(0, 4, (2, 2), np.float64), "scale", [[0.5, 2.0, -1.0, 0]], [[[3, 4], [0, 2]]]),
        (spaces.Box(0, 5, (2,), np.int32), "scale", [[-0.5, 0.5]], [[1, 3]]),
        (spaces.Box(-HUGE, HUGE, (1,)), "scale", [[-2.0], [0.5]], [[-HUGE], [0.5 * HUGE]]),
        (spaces.Box(-HUGE, HUGE, (1,)), "squash", [[9.0], [0.0]], [[HUGE], [0.0]]),
        (spaces.Box(-HUGE, 0, (1,)), "scale", [[1.0], [-1.0]], [[0.0], [-HUGE]]),
        (spaces.Discrete(3, start=5), "scale", [2], [7]),
        (spaces.Discrete(3, dtype=np.int32), "scale", [2], [2]),
        (spaces.Discrete(3, start=5, dtype=np.int32), "scale", [2], [7]),
        (spaces.MultiDiscrete([3, 3], dtype=np.int16), "scale", [[0, 1]], [[0, 1]]),
        (spaces.MultiDiscrete([[3], [3]], start=[[1], [2]]), "scale", [[0, 1]], [[[1], [3]]]),
        (spaces.MultiBinary(2), "scale", [[1.0, 0.0]], [[1, 0]]),
    ],
)
def test_actions_reach_the_environment_in_its_units(
    space: Any, mode: str, stored: list, wanted: list
) -> None:
    integers = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    actions = np.array(stored, np.int64 if integers else np.float32)
    mapped = ActionMap(space, mode).host(actions)
    np.testing.assert_allclose(mapped, np.array(wanted), atol=1e-6)
    assert space.contains(mapped[0].astype(space.dtype)) and mapped.dtype == space.dtype
    device = ActionMap(space, mode).device(torch.from_numpy(actions)).numpy()
    np.testing.assert_allclose(device, mapped, atol=1e-6)
    assert (device.shape, device.dtype) == (mapped.shape, mapped.dtype)


@pytest.mark.parametrize("mode", ["scale", "squash", "beta"])
def test_mapped_actions_never_leave_a_finite_box(mode: str) -> None:
    """Whatever is rounded: environments check that their actions lie in the space."""
    drawn = np.random.default_rng(0)
    for size in (1e-38, 1e-3, 1.0, 1e30, HUGE):
        low, high = np.sort(drawn.uniform(-size, size, (2, 500)), axis=0).astype(np.float32)
        box = ActionMap(spaces.Box(low, high), mode)
        actions = np.array([[-50.0], [-1.0], [-0.3], [0.0], [0.7], [1.0], [50.0]], np.float32)
        actions = np.tile(actions, (1, 500))
        for mapped in (box.host(actions), box.device(torch.from_numpy(actions)).numpy()):
            assert (mapped >= low).all() and (mapped <= high).all()
            np.testing.assert_allclose(mapped[0], low, rtol=1e-6, atol=1e-6 * size)
            np.testing.assert_allclose(mapped[-1], high, rtol=1e-6, atol=1e-6 * size)


def test_wrong_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="action_mode: expected one of"):
        ActionMap(spaces.Discrete(2), "wrong")
    with pytest.raises(ValueError, match="without bounds, got 'squash'"):
        ActionMap(spaces.Box(-np.inf, np.inf, (1,)), "squash")
