"""torch.inference_mode(): the same bits inside it and from tensors made there, and a sentence where
a method has to differentiate.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import UPDATES, Case, random_vector

from trpo_fast import BackendUnavailable, FisherOperator, MLPPolicy, flat_params

CASE = Case("categorical", weights=True, masks=True, dtype=torch.float32)


def made_inside(batch):
    names = ("obs", "actions", "advantages", "log_probs", "weights", "action_mask")
    with torch.inference_mode():
        return replace(batch, **{name: getattr(batch, name).clone() for name in names})


def result(update, change, inside, backend):
    policy = CASE.policy()
    batch = change(CASE.batch(policy))
    with torch.inference_mode(inside):
        info = update(policy, batch, backend=backend)
    assert info.accepted
    return torch.cat([info.stats, flat_params(policy).double()])


@pytest.mark.parametrize("backend", ["cpu", "reference", "autograd"])
@pytest.mark.parametrize("name", UPDATES)
def test_updates(name, backend):
    update = UPDATES[name]
    expected = result(update, lambda b: b, False, backend)
    assert torch.equal(result(update, made_inside, False, backend), expected)
    if name == "kl_penalty_adam":
        with pytest.raises(ValueError, match=r"inner: expected 'natural' within torch.infer"):
            result(update, made_inside, True, backend)
    elif backend == "autograd":
        with pytest.raises(BackendUnavailable, match=r"differentiates.*inference_mode.*leave"):
            result(update, made_inside, True, backend)
    else:
        assert torch.equal(result(update, made_inside, True, backend), expected)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_products(backend):
    policy = CASE.policy()
    batch, v = CASE.batch(policy), random_vector(policy)
    expected = FisherOperator(policy, batch.obs, backend=backend) @ v
    obs = made_inside(batch).obs
    F = FisherOperator(policy, obs, backend=backend)
    with torch.inference_mode():
        assert torch.equal(F @ v, expected)
        assert torch.equal(FisherOperator(policy, obs, fvp_rows=33, backend=backend) @ v, expected)
        obs.zero_()  # uncounted, and a copy was taken
        assert torch.equal(F @ v, expected)


def test_a_policy_made_inside_cannot_be_trained():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"module: .+ can be trained, got"):
        MLPPolicy(3, CASE.policy().head)
