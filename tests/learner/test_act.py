"""Acting in one native call against acting through the torch modules."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from act_cases import Outputs, assert_equal, check_follows, make, room
from cases import HEADS, HIDDEN
from torch import Tensor

from trpo_fast import BackendUnavailable, Gaussian, MLPPolicy, MultiCategorical
from trpo_fast.backends.support import family_support
from trpo_fast.learner import actor_cpu as act
from trpo_fast.learner.actor import ActTensors, ModuleActor
from trpo_fast.learner.critic import Critic
from trpo_fast.learner.normalise import ObservationNormaliser
from trpo_fast.policy.net import ACTIVATIONS

pytestmark = pytest.mark.skipif(not family_support("act"), reason="no native code in this checkout")


def both(
    policy: MLPPolicy, critic: Critic, obs: Tensor, mask: Tensor | None = None
) -> tuple[Outputs, Outputs]:
    """(native, modules), from generators with one seed."""
    results = []
    for kind in (act.NativeActor, ModuleActor):
        actor = kind(policy, critic, torch.Generator().manual_seed(7))
        out = room(policy, len(obs))
        actor.act(ActTensors(obs, mask, *out))
        results.append(out)
    return results[0], results[1]


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
@pytest.mark.parametrize("head", [h for h in HEADS if HEADS[h]().noise != "none"])
@pytest.mark.parametrize("count", [1, 8, 33, 300])
def test_heads(monkeypatch: pytest.MonkeyPatch, isa: str, head: str, count: int) -> None:
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, critic = make(head)
    try:
        assert_equal(*both(policy, critic, torch.randn(count, 5)))
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("activation", "hidden"), [*product(ACTIVATIONS, [*HIDDEN, (129, 17)])])
def test_nets(activation: str, hidden: tuple[int, ...]) -> None:
    policy, critic = make("gaussian", hidden, activation, obs_dim=17)
    assert_equal(*both(policy, critic, torch.randn(33, 17)))


@pytest.mark.parametrize("head", ["categorical", "multicategorical"])
def test_masks(head: str) -> None:
    policy, critic = make(head)
    mask = torch.rand(200, policy.head.outputs) < 0.5
    for begin, n in zip((0, 2, 5), policy.head.nvec, strict=False):
        mask[:, begin + n - 1] = True
    native, modules = both(policy, critic, torch.randn(200, 5), mask)
    assert_equal(native, modules)
    first = native[0].reshape(200, -1)[:, :1]
    assert mask.gather(1, first).all()


def test_normalises_on_the_way_in() -> None:
    policy, critic = make("gaussian")
    normaliser = ObservationNormaliser(5, clip=1.5)
    for round_ in range(2):  # the second time with statistics that have moved
        normaliser.update(torch.randn(50, 5) * 3.0 + 2.0 + round_)
        obs, seen = torch.randn(9, 5) * 4.0, torch.zeros(9, 5)
        if round_ == 0:
            actor = act.NativeActor(
                policy, critic, torch.Generator().manual_seed(7), normaliser=normaliser
            )
        actor.generator.manual_seed(7)
        out = room(policy, 9)
        actor.act(ActTensors(obs, None, *out, seen=seen))
        torch.testing.assert_close(seen, normaliser(obs))
        assert_equal(out, both(policy, critic, normaliser(obs))[1])
        torch.testing.assert_close(actor.values(obs), critic.values(normaliser(obs)))


def test_nets_see_the_same_bits_whoever_normalises() -> None:
    """By the kernels, by the module actor's collector (arrays) and by torch: clipped, NaN kept."""
    policy, critic = make("gaussian")
    normaliser = ObservationNormaliser(5, clip=1.5)
    normaliser.update(torch.randn(50, 5) * 3.0 + 2.0)
    obs, seen = torch.randn(33, 5) * 4.0, torch.zeros(33, 5)
    obs[0], obs[1, 0], obs[2, 1] = 1e30, -1e30, torch.nan
    actor = act.NativeActor(policy, critic, normaliser=normaliser)
    assert actor.normaliser is normaliser
    assert ModuleActor(policy, critic, torch.Generator()).normaliser is None
    actor.act(ActTensors(obs, None, *room(policy, 33), seen=seen))
    wanted = normaliser(obs)
    assert float(wanted[0].min()) == 1.5 == -float(wanted[1, 0]) and bool(wanted[2, 1].isnan())
    for got in (seen, torch.from_numpy(normaliser.on_host(obs.numpy()))):
        assert torch.equal(got.view(torch.int32), wanted.view(torch.int32))


def test_threads_change_no_bit() -> None:
    policy, critic = make("gaussian", (64, 64))
    obs, results = torch.randn(1000, 5), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(both(policy, critic, obs)[0])
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_follows_parameters_and_parts() -> None:
    check_follows(act.NativeActor, *make("gaussian"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda net: net.__setitem__(1, torch.nn.ReLU()), "net.1 is ReLU"),
        (lambda net: net[1].register_forward_hook(lambda m, i, h: 2 * h), "net.1 has forward"),
    ],
)
def test_refuses_parts_it_was_not_made_for(change: Callable[[Any], Any], words: str) -> None:
    policy, critic = make("gaussian")
    actor = act.NativeActor(policy, critic)
    obs, out = torch.randn(4, 5), room(policy, 4)
    change(policy.net)
    wanted = (
        f"changed after its actor was made: policy: expected an MLPPolicy as it comes, .* {words}"
    )
    with pytest.raises(RuntimeError, match=wanted):
        actor.act(ActTensors(obs, None, *out))


def test_what_was_bound_in_inference_mode_acts_outside_it() -> None:
    policy, critic = make("gaussian")
    obs, out = torch.randn(4, 5), room(policy, 4)
    actor = act.NativeActor(policy, critic, torch.Generator().manual_seed(7))
    with torch.inference_mode():
        run = actor.bind(ActTensors(obs, None, *out))
    run()
    assert_equal(out, both(policy, critic, obs)[1])


def test_noise_is_float32_whatever_the_default_dtype() -> None:
    policy, critic = make("gaussian")
    obs, out = torch.randn(4, 5), room(policy, 4)
    actor = act.NativeActor(policy, critic, torch.Generator().manual_seed(7))
    torch.set_default_dtype(torch.float64)
    try:
        actor.act(ActTensors(obs, None, *out))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_equal(out, both(policy, critic, obs)[1])


def test_bound_tensors_are_read_at_every_call() -> None:
    policy, critic = make("gaussian")
    obs, out = torch.zeros(4, 5), room(policy, 4)
    actor = act.NativeActor(policy, critic, torch.Generator().manual_seed(7))
    bound = actor.bind(ActTensors(obs, None, *out))
    for _ in range(3):
        obs.normal_()
        actor.generator.manual_seed(7)
        bound()
        assert_equal(out, both(policy, critic, obs)[1])


STRIDED = torch.zeros(9, 8).T
UNFIT = {
    "obs": [
        torch.zeros(9, 4),
        torch.zeros(5),
        torch.zeros(9, 5).double(),
        [[0.0] * 5] * 9,
        torch.zeros(5, 9).T,
        torch.zeros(9, 5, device="meta"),
    ],
    "mask": [torch.ones(8, 4).bool(), torch.ones(9, 3).bool(), torch.ones(9, 4)],
    "actions": [
        torch.zeros(8).long(),
        torch.zeros(9, 1).long(),
        torch.zeros(9),
        torch.zeros(9, 2).long()[:, 0],
    ],
    "log_probs": [torch.zeros(8), torch.zeros(9, 1), torch.zeros(9).double(), None, STRIDED[0]],
    "values": [torch.zeros(10), torch.zeros(9).half(), STRIDED[0]],
    "seen": [torch.zeros(9, 4), torch.zeros(8, 5), torch.zeros(5, 9).T],
}


@pytest.mark.parametrize("name", UNFIT)
def test_tensors_that_do_not_fit(name: str) -> None:
    policy, critic = make("categorical")
    actor = act.NativeActor(policy, critic, torch.Generator().manual_seed(7))
    good = dict(zip(("actions", "log_probs", "values"), room(policy, 9), strict=True))
    good |= {"obs": torch.zeros(9, 5), "mask": torch.ones(9, 4).bool(), "seen": torch.zeros(9, 5)}
    actor.act(ActTensors(**good))
    for bad in UNFIT[name]:
        with pytest.raises(ValueError, match=rf"^{name}: expected .+, got .+"):
            actor.act(ActTensors(**good | {name: bad}))
        if name == "obs" and (isinstance(bad, list) or bad.is_contiguous()):
            with pytest.raises(ValueError, match=r"^obs: expected .+, got .+"):
                actor.values(bad)


@pytest.mark.parametrize(
    ("head", "hidden", "reason"),
    [
        (Gaussian(1), (3,) * 8, "at most 7 hidden layers, got 8"),
        (MultiCategorical([2] * 65), (3,), "at most 64 factors, got a head of 65"),
    ],
    ids=["deep", "factors"],
)
def test_nets_beyond_the_kernels_sizes_are_left_to_the_modules(head, hidden, reason) -> None:
    assert reason in act.act_support(MLPPolicy(4, head, hidden), Critic(4)).why_not


def test_says_why_not() -> None:
    policy, critic = make("beta")
    assert (
        "a head that chooses by noise of fixed size, got Beta(2)"
        in act.act_support(policy, critic).why_not
    )
    policy, critic = make("gaussian")
    assert "float32" in act.act_support(policy.double(), critic).why_not
    assert "MLPPolicy" in act.act_support(torch.nn.Linear(2, 2), critic).why_not
    with pytest.raises(BackendUnavailable, match="float32 parameters on the CPU"):
        act.NativeActor(policy, critic)
