"""Statistics and critics of rows that lie on several processes: those of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.exactness import relative_error
from tests.support.rank_cases import rank_of
from tests.support.rank_pool import Failed
from trpo_fast import Critic
from trpo_fast.learner.advantage import normalise
from trpo_fast.learner.normalise import ObservationNormaliser, RewardScaler
from trpo_fast.policy.flat import flat_params

EXACT = 1e-12
Ends = tuple[int, ...]


def mine(group: Any, ends: Ends) -> slice:
    if group is None:
        return slice(0, ends[-1])
    rank = rank_of(group)
    return slice(ends[rank - 1] if rank else 0, ends[rank])


def rows(count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    obs = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    weights = torch.rand(count, dtype=torch.float64, generator=generator)
    weights[::4] = 0.0
    return 5.0 + obs, 3.0 * obs.sum(-1) - 7.0, weights


def statistics(group: Any, ends: Ends) -> dict[str, Tensor]:
    """What every kind of normalisation gives, of this rank's rows or copies."""
    here = mine(group, ends)
    obs, values, weights = (each[here] for each in rows(ends[-1]))
    found = {"advantages": normalise(values, group=group)}
    values = torch.where(weights > 0, values, torch.nan)
    found["weighted"] = normalise(values, weights, group=group)[weights > 0]
    normaliser = ObservationNormaliser(3)
    for part in (obs, 2.0 * obs):
        normaliser.update(part, group=group)
    found |= {f"observations' {name}": value for name, value in normaliser.state_dict().items()}
    rewards = rows(6 * ends[-1])[1].view(6, -1)[:, here]
    scaler = RewardScaler(rewards.shape[1], 0.9)
    found["rewards"] = scaler(rewards, rewards > 0.0, group=group).flatten()
    return found


@pytest.mark.parametrize("ends", [(7, 20), (0, 20), (4, 4, 20)], ids=str)
def test_statistics_are_those_of_all_rows(ranks, ends):
    truth = statistics(None, ends)
    parts = ranks.run(statistics, ends, ranks=len(ends))
    for name, value in truth.items():
        if name.startswith("observations"):
            assert all(torch.equal(part[name], parts[0][name]) for part in parts)
            found = parts[0][name]
        elif name == "rewards":
            found = torch.cat([part[name].view(6, -1) for part in parts], dim=1).flatten()
        else:
            found = torch.cat([part[name] for part in parts])
        assert relative_error(found, value) < EXACT, name


FITS: dict[str, dict[str, Any]] = {
    "all rows a step": {"minibatch": 64, "epochs": 3},
    "gauss_newton": {
        "method": "gauss_newton",
        "fraction": 1.0,
        "steps": 1,
        "cg_iterations": 3,
        "damping": 0.1,
    },
    "kfac": {
        "method": "gauss_newton",
        "fraction": 1.0,
        "steps": 1,
        "cg_iterations": 3,
        "preconditioner": "kfac",
    },
}


def fitted(group: Any, ends: Ends, options: dict[str, Any], dtype: Any) -> tuple[Any, ...]:
    """Parameters, loss and steps of a critic after two fits."""
    torch.manual_seed(2)
    critic = Critic(3, (6,), dtype=dtype, **options)
    obs, targets, weights = (each[mine(group, ends)].to(dtype) for each in rows(ends[-1]))
    generator = torch.Generator().manual_seed(0 if group is None else rank_of(group))
    for weight in (None, weights):
        info = critic.fit(obs, targets, weight, generator=generator, group=group)
    return flat_params(critic.net).clone(), critic.mean, critic.std, float(info), info.steps


@pytest.mark.parametrize("ends", [(7, 20), (20, 20), (4, 4, 20)], ids=str)
@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_that_of_one_process(ranks, name, ends):
    """Where a step takes all rows, the order in which they were drawn does not matter."""
    theta, mean, std, loss, steps = fitted(None, ends, FITS[name], torch.float64)
    found = ranks.run(fitted, ends, FITS[name], torch.float64, ranks=len(ends))
    for other in found:
        assert torch.equal(other[0], found[0][0]) and other[3:] == found[0][3:]
    assert relative_error(found[0][0], theta) < EXACT
    assert relative_error(found[0][1], mean) < EXACT and relative_error(found[0][2], std) < EXACT
    assert found[0][3] == pytest.approx(loss, rel=1e-11) and found[0][4] == steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_minibatches_are_made_of_every_ranks_rows(ranks, dtype):
    options = {"minibatch": 6, "epochs": 20, "learning_rate": 1e-2}
    found = ranks.run(fitted, (7, 20), options, dtype)
    assert torch.equal(found[0][0], found[1][0])
    assert all(steps == 20 * 3 for *_, steps in found)  # of the 15 rows that have a weight
    alone = fitted(None, (7, 20), options, dtype)
    assert found[0][3] == pytest.approx(alone[3], rel=0.5)  # other minibatches


def spoiled(group: Any, what: str) -> None:
    """A fit of which one rank is given something else; the critic stays on both."""
    torch.manual_seed(2)
    critic = Critic(3, (6,), dtype=torch.float64)
    obs, targets, _ = (each[mine(group, (7, 20))].clone() for each in rows(20))
    if rank_of(group) == 1:
        if what == "targets":
            targets[3] = torch.nan
        elif what == "parameters":
            flat_params(critic.net).mul_(1.5)
        else:
            critic.epochs += 1
    before = flat_params(critic.net).clone()
    try:
        critic.fit(obs, targets, group=group)
    finally:
        assert torch.equal(flat_params(critic.net), before) and critic.fits == 0


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("targets", "rank 1: targets: expected finite values, got nan in row 3"),
        ("parameters", "critic: expected the same parameters on every rank, got others on rank 1"),
        ("settings", "critic: expected the same settings on every rank, got others on rank 1"),
    ],
)
def test_all_ranks_raise_what_one_has_met(ranks, what, words):
    for found in ranks.everywhere(spoiled, what):
        assert isinstance(found, Failed) and found.kind == "ValueError", found
        assert found.words.startswith(words)
