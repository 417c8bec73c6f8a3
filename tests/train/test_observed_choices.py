"""Parts of observations that are choices: those out of range are refused with part and value, and
an exported model calls every part by a name of its own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from gymnasium import spaces
from pixel_envs import Columns, Mixed

from trpo_fast import (
    TRPO,
    Batch,
    Categorical,
    CNNPolicy,
    FisherOperator,
    flat_params,
    trpo_update,
)
from trpo_fast._base.rows import dotted_parts
from trpo_fast.envs.errors import EnvError
from trpo_fast.envs.observations import parts_of_space, unusable
from trpo_fast.train.export import export

NET: dict[str, Any] = {"cnn_channels": (3,), "cnn_kernels": (3,), "cnn_strides": (2,)}
SMALL: dict[str, Any] = {"num_envs": 2, "rows_per_update": 20, "hidden": (8,), **NET}
SMALL |= {"critic_hidden": (8,)}


class Wrong(Mixed):
    """Gives a value that is none of a part's choices in its fourth observation, of which one is
    that of a reset before the run.
    """

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self.name, self.value, self.seen = name, value, 0

    def observed(self) -> Any:
        obs, self.seen = super().observed(), self.seen + 1
        return obs | {self.name: self.value} if self.seen == 4 else obs


CASES = {
    "above": ("gear", 3, r"obs\['gear'\] 3, which is none of -1 to 2,"),
    "below": ("gear", -2, r"obs\['gear'\] -2, which is none of -1 to 2,"),
    "second entry": ("switches", np.array([1, 3]), r"obs\['switches'\] 3, which is none of 0 to 2"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_choice_out_of_range_names_its_part_and_value(case: str) -> None:
    name, value, words = CASES[case]
    where = "in the observation of copy 0, 2 steps into the rollout"
    with pytest.raises(EnvError, match=f"returned {words}.* {where}"):
        TRPO(partial(Wrong, name, value), **SMALL).learn(20)
    obs = Mixed().reset(seed=0)[0]
    agent = TRPO(Mixed, **SMALL)
    agent.predict(obs)
    wanted = words.replace(r"'\] ", r"'\]: expected one of its choices, got ").removesuffix(",")
    with pytest.raises(ValueError, match=f"^{wanted}"):
        agent.predict(obs | {name: value})
    rows = {key: np.stack([part, part]) for key, part in obs.items() if key != "pair"}
    rows["pair"] = tuple(np.stack([part, part]) for part in obs["pair"])
    rows[name][1] = value
    with pytest.raises(ValueError, match=f"^{wanted}"):
        agent.predict(rows)


def test_every_entry_has_choices_of_its_own() -> None:
    space = spaces.Dict({"d": spaces.Discrete(2), "m": spaces.MultiDiscrete([2, 5], start=[3, -1])})
    parts = parts_of_space(space)
    example = parts["m"].example(space["m"], 500, torch.Generator().manual_seed(0))
    assert example.amin(0).tolist() == [3, -1] and example.amax(0).tolist() == [4, 3]
    fine = {"d": np.array([0, 1]), "m": example[:2].numpy()}
    assert unusable(parts, fine) is None
    found = unusable(parts, fine | {"m": np.array([[3, 3], [5, 0]])})
    assert found == (1, "obs['m'] 5, which is none of 3 to 4,")


class Named(Columns):
    """Keys that would be one name if points and blanks in them were nothing."""

    def __init__(self) -> None:
        super().__init__()
        vector = spaces.Box(-1.0, 1.0, (2,))
        inner = spaces.Dict({"b": vector, "c d": spaces.Discrete(3)})
        self.observation_space = spaces.Dict({"a.b": vector, "a": inner, "a-b": vector})

    def observed(self) -> Any:
        numbers = [self.np_random.normal(size=2).astype(np.float32) for _ in range(3)]
        inner = {"b": numbers[0], "c d": self.count % 3}
        return {"a.b": numbers[1], "a": inner, "a-b": numbers[2]}


@pytest.mark.filterwarnings("ignore")
def test_every_part_has_a_name_of_its_own_in_an_onnx_model(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    agent = TRPO(Named, policy="cnn", **SMALL).learn(20)
    model = onnx.load(export(agent, tmp_path / "policy.onnx", rows=8))  # compares with predict
    onnx.checker.check_model(model)
    names = [value.name for value in model.graph.input]
    assert sorted(names) == ["obs.a%2Db", "obs.a%2Eb", "obs.a.b", "obs.a.c%20d"]


def test_parts_without_a_name_of_their_own_are_refused() -> None:
    names = dotted_parts({"camera": 1, "a": ({"b": 2}, 3), "": 4}, "obs")
    assert names == {"obs.camera": 1, "obs.a.0.b": 2, "obs.a.1": 3, "obs.": 4}
    with pytest.raises(ValueError, match=r"obs: expected parts that have .*, got two 'obs\.1'"):
        dotted_parts({1: 1, "1": 2}, "obs")


def rows_of(switches: Any, weights: Any = None) -> tuple[CNNPolicy, Batch]:
    space = spaces.Dict(
        {"gear": spaces.Discrete(4, start=1), "switches": spaces.MultiDiscrete([2, 3])}
    )
    policy = CNNPolicy(space, Categorical(3), (4,))
    obs = {"gear": torch.tensor([1, 4, 2, 3]), "switches": torch.tensor(switches)}
    given = None if weights is None else torch.tensor(weights)
    return policy, Batch(obs, torch.tensor([0, 1, 2, 0]), torch.randn(4), weights=given)


GOOD, BAD = [[0, 0], [1, 2], [0, 1], [1, 0]], [[0, 0], [1, 2], [0, 3], [1, 0]]


@pytest.mark.parametrize("backend", ["reference", "autograd"])
def test_an_update_names_a_choice_that_there_is_none_of(backend: Any) -> None:
    policy, batch = rows_of(BAD)
    before = flat_params(policy).clone()
    wanted = (
        r"obs\['switches'\]: expected choices from \[0, 0\] to \[1, 2\], got 3 at index \[2, 1\]"
    )
    with pytest.raises(ValueError, match=f"^{wanted}"):
        trpo_update(policy, batch, backend=backend)
    with pytest.raises(ValueError, match=f"^{wanted}"):
        FisherOperator(policy, batch.obs, backend=backend)
    info = trpo_update(policy, batch, backend=backend, sync=False)
    assert info.reason == "bad_values" and torch.equal(flat_params(policy), before)
    policy, batch = rows_of(BAD, [1.0, 1.0, 0.0, 1.0])  # a row of weight zero may hold anything
    assert trpo_update(policy, batch, backend=backend).reason != "bad_values"
    policy, batch = rows_of(GOOD)
    assert trpo_update(policy, batch, backend=backend).reason != "bad_values"
    batch.obs["gear"][1] = 5
    with pytest.raises(ValueError, match=r"obs\['gear'\]: expected choices from 1 to 4, got 5 at"):
        trpo_update(policy, batch, backend=backend)
