"""What makes policies, heads and penalties: the sentences for what does not fit."""

from __future__ import annotations

import pytest
import torch
from cases import Case

import trpo_fast
from trpo_fast import MLPPolicy, Penalty, flat_params, trpo_update

NAN = float("nan")
HEAD = trpo_fast.Gaussian(2)
MATRIX = torch.tensor([[2, 3]])
MAKERS = {
    "obs_dim": [lambda bad=bad: MLPPolicy(bad, HEAD) for bad in (0, 1.5, "3", True, (3,), None)],
    "hidden": [
        lambda bad=bad: MLPPolicy(3, HEAD, bad)
        for bad in ((8, 0), (8, 2.5), 64, "64", None, ("64",), (True,), ((8, 8),))
    ],
    "activation": [
        lambda bad=bad: MLPPolicy(3, HEAD, activation=bad)
        for bad in ("softmax", torch.nn.Tanh, None, "Tanh")
    ],
    "head": [lambda bad=bad: MLPPolicy(3, bad) for bad in ("gaussian", 2, trpo_fast.Gaussian)],
    "output_gain": [lambda bad=bad: MLPPolicy(3, HEAD, output_gain=bad) for bad in ("1", NAN)],
    "dtype": [
        lambda bad=bad: MLPPolicy(3, HEAD, dtype=bad)
        for bad in ("float32", torch.int64, torch.float16, float)
    ],
    "device": [lambda bad=bad: MLPPolicy(3, HEAD, device=bad) for bad in ("gpu", "cuda:x", 1.5)],
    "std": [lambda bad=bad: trpo_fast.Gaussian(2, std=bad) for bad in ("fixed", None, 0.5)],
    "initial_log_std": [lambda: trpo_fast.Gaussian(2, initial_log_std="0")],
    "dim": [lambda bad=bad: trpo_fast.Gaussian(bad) for bad in (0, 1.5, "2", True, [2], None)],
    "n": [
        lambda bad=bad, head=head: head(bad)
        for bad in (0, 2.0, "2", [2])
        for head in (trpo_fast.Categorical, trpo_fast.Bernoulli)
    ],
    "nvec": [lambda bad=bad: trpo_fast.MultiCategorical(bad) for bad in ((), (2, 0), 3, MATRIX)],
    "observation_space": [lambda: MLPPolicy.for_spaces((3,), box())],
    "action_space": [lambda: MLPPolicy.for_spaces(box(), dict_space())],
    "rule": [lambda: Penalty(rule="linear")],
    "value": [lambda: Penalty(value=-1.0)],
    "target_kl": [lambda: Penalty(target_kl=0.0)],
    "rate": [lambda: Penalty(rate=NAN)],
    "module": [lambda: flat_params(torch.nn.Tanh())],
}


def box():
    return pytest.importorskip("gymnasium").spaces.Box(-1.0, 1.0, (3,))


def dict_space():
    return pytest.importorskip("gymnasium").spaces.Dict(a=box())


@pytest.mark.parametrize("argument", MAKERS)
def test_makers(argument):
    for make in MAKERS[argument]:
        with pytest.raises(ValueError, match=rf"^{argument}: expected (.|\n)+, got ."):
            make()


def test_numbers_of_numpy_count():
    """As they come from a space: ``space.n``, ``space.nvec``, products of shapes."""
    np = pytest.importorskip("numpy")
    policy = MLPPolicy(np.int64(3), trpo_fast.Categorical(np.int64(4)), np.array([8, 5]))
    assert policy.spec == MLPPolicy(3, trpo_fast.Categorical(4), [8, 5]).spec
    assert trpo_fast.MultiCategorical(np.array([2, 3])).nvec == (2, 3)
    batch = Case("categorical", obs_dim=3, dtype=torch.float32).batch(policy)
    assert trpo_update(policy, batch, max_kl=np.float32(0.01), cg_iterations=np.int32(5)).accepted


def test_every_public_name_is_listed():
    """Also what loads when it is first asked for."""
    assert set(trpo_fast.__all__) <= set(dir(trpo_fast))
    for name in trpo_fast.__all__:
        assert getattr(trpo_fast, name) is not None
