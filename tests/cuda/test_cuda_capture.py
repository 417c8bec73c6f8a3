"""What a captured stream cannot record is noticed without a device; every head keeps to it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from cases import HEADS, Case
from cuda_graph import capture
from cuda_support import DEVICE, EMULATED, kernels, to_device  # noqa: F401

from trpo_fast.learner.actor import ActTensors
from trpo_fast.learner.actor_cuda import CudaActor
from trpo_fast.learner.critic import Critic

CASE = Case("gaussian", (8, 5), rows=33, dtype=torch.float32)


@pytest.mark.skipif(not EMULATED, reason="CUDA itself says what a capture forbids")
@pytest.mark.parametrize(
    "make",
    [
        lambda like: torch.tensor([3, 4], device=like.device),
        lambda like: torch.as_tensor((0.5,), device=like.device),
        lambda like: torch.from_numpy(np.zeros(2)),
        lambda like: like.new_tensor([1.0]),
    ],
)
def test_tensors_made_from_numbers_of_the_host_are_noticed(make):
    with pytest.raises(RuntimeError, match="while a stream is captured"):
        capture(partial(make, torch.zeros(2)))


@pytest.mark.skipif(not EMULATED, reason="CUDA itself says what a capture forbids")
def test_generators_that_the_graph_does_not_know_are_noticed():
    policy, critic, generator = CASE.policy(), Critic(5, (8,)), torch.Generator()
    tensors = ActTensors(torch.zeros(9, 5), None, torch.empty(9, 3), *torch.empty(2, 9))
    call = CudaActor(policy, critic, generator).bind(tensors)
    with pytest.raises(RuntimeError, match=r"not registered with the graph .*actor_cuda"):
        capture(call)
    capture(call, generator)


@pytest.mark.parametrize("head", HEADS)
def test_the_heads_formulas_are_captured(head):
    """What the reference, and acting by modules, make of a head on a device."""
    case = Case(head, (8,), rows=9, masks="categorical" in head, dtype=torch.float32)
    policy, rows = case.policy().to(DEVICE), to_device(case.batch(case.policy()))
    assert rows.actions is not None
    mask = rows.action_mask
    params = policy.distribution_params(rows.obs, mask).detach()
    other, drawn = params.flip(0).contiguous(), policy.head.noise != "none"
    noise = policy.head.draw_noise(9, like=params) if drawn else params

    def call():
        head, actions = policy.head, rows.actions
        found = [head.log_prob(params, actions), head.score(params, actions), head.entropy(params)]
        found += [head.metric(params, other), head.kl(other, params), head.unusable(actions)]
        found += [head.mode(params)] + ([head.choose(params, noise)] if drawn else [])
        return found + ([] if mask is None else [head.forbidden(actions, mask)])

    graph, found = capture(call)
    params.copy_(other)
    rows.actions.copy_(rows.actions.flip(0))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(found, call(), strict=True))
