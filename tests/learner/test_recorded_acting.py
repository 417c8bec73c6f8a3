"""Acting that is recorded and replayed: the bits of acting by the modules, draws among them, on
whatever rows, by the stand-in of tests/support/host_recorder.py.
"""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any

import pytest
import torch
from host_recorder import Tape, recording  # noqa: F401
from module_cases import Custom
from no_waits import no_waits
from torch import nn
from torch.distributions import Categorical, Normal

from trpo_fast import Gaussian, MLPPolicy, MultiCategorical, captured_graphs
from trpo_fast.learner.actor import ActTensors, ModuleActor
from trpo_fast.learner.critic import Critic
from trpo_fast.learner.normalise import ObservationNormaliser
from trpo_fast.learner.recurrent import Memory, RecurrentActor, RecurrentCritic
from trpo_fast.policy.recurrent import RecurrentPolicy

ROWS, OBS = 6, 4


@pytest.fixture(autouse=True)
def recorded(recording):  # noqa: F811
    yield recording


class Trunk(nn.Module):
    """Layers that a policy and a critic share."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(OBS, 9), nn.Tanh())
        self.out = nn.Linear(9, 3)

    def forward(self, obs):
        return Categorical(logits=self.out(self.shared(obs)))


class Values(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.shared, self.out = shared, nn.Linear(9, 1)

    def forward(self, obs):
        return self.out(self.shared(obs))


def nets(kind: str) -> tuple[Any, Any]:
    if kind == "gru":
        return RecurrentPolicy(OBS, Gaussian(2), "gru", 7), RecurrentCritic(OBS, "gru", 7)
    if kind == "trunk":
        policy = Trunk()
        return policy, Critic.of_module(Values(policy.shared), torch.zeros(3, OBS))
    heads = {"gaussian": Gaussian(2), "masks": MultiCategorical([2, 3])}
    return MLPPolicy(OBS, heads[kind], hidden=(140,)), Critic(OBS, (140,))


class Rollout:
    """Rows of an actor in buffers of their own, as a collector has them."""

    def __init__(self, kind: str, *, capture: bool, normalised: bool = False, times: int = 5):
        torch.manual_seed(3)
        self.policy, self.critic = nets(kind)
        self.generator = torch.Generator().manual_seed(11)
        self.normaliser = ObservationNormaliser(OBS, clip=1.5) if normalised else None
        options = {"capture": capture, "normaliser": self.normaliser}
        make = RecurrentActor if kind == "gru" else ModuleActor
        self.actor: Any = make(self.policy, self.critic, self.generator, **options)
        head = getattr(self.policy, "head", None)
        shape = () if head is None else head.action_shape
        dtype = torch.float32 if isinstance(head, Gaussian) else torch.int64
        self.raw, self.seen = torch.randn(times, ROWS, OBS), torch.zeros(times, ROWS, OBS)
        self.mask = torch.rand(times, ROWS, 5) < 0.7
        self.mask[..., [0, 2]] = True
        self.mask = self.mask if kind == "masks" else None
        self.actions = torch.zeros(times, ROWS, *shape, dtype=dtype)
        self.log_probs, self.values = torch.zeros(2, times, ROWS)
        size = getattr(self.actor, "state_size", 0)
        self.states, self.starts = torch.zeros(times + 1, ROWS, size), torch.rand(times, ROWS) < 0.3
        self.acts = [self.bound(t) for t in range(times)]

    def bound(self, t: int):
        mask = None if self.mask is None else self.mask[t]
        chosen = self.actions[t], self.log_probs[t], self.values[t]
        seen = None if self.normaliser is None else self.seen[t]
        tensors = ActTensors(self.raw[t], mask, *chosen, seen)
        if not self.states.shape[-1]:
            return self.actor.bind(tensors)
        memory = Memory(self.starts[t], self.states[t], self.states[t + 1])
        return self.actor.remembering(tensors, memory)

    def collect(self) -> list[torch.Tensor]:
        self.actor.recheck_nets()
        for act in self.acts:
            act()
        if self.normaliser is not None:
            self.normaliser.update(self.raw.flatten(0, 1) * 2.0 + 1.0)
        with torch.no_grad():
            for p in (*self.policy.parameters(), *self.critic.parameters()):
                p.mul_(1.01)
            self.critic.mean.add_(0.5)
        drawn = self.generator.get_state()
        parts = (self.actions, self.log_probs, self.values, self.seen, self.states, drawn)
        return [part.clone() for part in parts]


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "masks", "trunk", "gru"])
def test_a_replay_has_the_bits_of_the_modules(kind: str, normalised: bool) -> None:
    """Rows, parameters, statistics and the generator's state differ at every call."""
    ours, theirs = (Rollout(kind, capture=c, normalised=normalised) for c in (True, False))
    begun = captured_graphs().replays
    for _ in range(3):
        assert same(ours.collect(), theirs.collect())
    after = captured_graphs()
    assert after.graphs == 1 and after.replays == begun + 13 and after.nbytes > 0


def test_what_is_replaced_between_two_rollouts_is_followed() -> None:
    ours, theirs = (Rollout("gaussian", capture=c, normalised=True) for c in (True, False))

    def changed(change) -> None:
        ours.collect(), theirs.collect()
        for each in (ours, theirs):
            torch.manual_seed(7)
            change(each)
        assert same(ours.collect(), theirs.collect())

    changed(lambda each: each.policy.net.__setitem__(1, nn.ReLU()))
    changed(lambda each: each.critic.net.net.__setitem__(0, nn.Linear(OBS, 140)))
    changed(lambda each: setattr(each.policy.net[0], "bias", nn.Parameter(torch.randn(140))))
    changed(lambda each: setattr(each.normaliser, "clip", 0.5))
    changed(lambda each: each.generator.manual_seed(1))
    state = theirs.critic.state_dict()
    changed(lambda each: each.critic.load_state_dict(state))


def test_acting_goes_on_in_inference_mode_and_under_autocast() -> None:
    ours, theirs = (Rollout("gaussian", capture=c) for c in (True, False))
    for surroundings in (torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)):
        for _ in range(2):
            with surroundings():
                assert same(ours.collect(), theirs.collect())
            assert same(ours.collect(), theirs.collect())


def test_what_is_seen_may_be_asked_for_in_some_calls_only() -> None:
    found, begun = [], captured_graphs().replays
    for capture in (True, False):
        actor = Rollout("gaussian", capture=capture, normalised=True).actor
        for i in range(8):
            room = torch.zeros(ROWS, 2), torch.zeros(ROWS), torch.zeros(ROWS)
            seen = torch.zeros(ROWS, OBS) if i % 2 else None
            actor.act(ActTensors(torch.full((ROWS, OBS), float(i)), None, *room, seen))
            found.append([*room, torch.zeros(()) if seen is None else seen])
    assert all(same(ours, theirs) for ours, theirs in zip(found[:8], found[8:], strict=True))
    assert captured_graphs().replays == begun + 4


class Odd(nn.Module):
    def __init__(self, habit):
        super().__init__()
        self.net, self.habit = nn.Linear(OBS, 2), habit
        self.register_buffer("count", torch.zeros(()))

    def forward(self, obs):
        return Normal(self.habit(self, self.net(obs)), torch.ones(len(obs), 2))


def draws(module, mean):
    return mean + 0.01 * torch.rand_like(mean)


def writes(module, mean):
    module.count.add_(1.0)
    return mean + module.count


def reads(module, mean):
    return mean if float(mean.sum()) > 0 else 2.0 * mean


HABITS = {
    draws: "random numbers are drawn by rand_like",
    writes: "what lies outside of it is written by add_",
    reads: "the host waits for",
}


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)
def test_what_cannot_be_recorded_is_told_once_and_acts_as_it_is(habit) -> None:
    found = []
    for capture in (True, False):
        torch.manual_seed(0)
        policy, critic = Odd(habit), Critic(OBS, (5,))
        actor = ModuleActor(policy, critic, torch.Generator().manual_seed(1), capture=capture)
        obs, actions, rest = torch.ones(ROWS, OBS), torch.zeros(4, ROWS, 2), torch.zeros(2, ROWS)
        torch.manual_seed(5)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for t in range(4):
                actor.act(ActTensors(obs, None, actions[t], *rest))
        words = [str(w.message) for w in told if "capture" in str(w.message)]
        assert len(words) == capture
        assert all(re.search(f"capture: acting runs .*{HABITS[habit]}", w) for w in words)
        found.append(actions)
    assert torch.equal(*found)


def test_a_draw_from_another_generator_is_none_of_a_recording() -> None:
    tape = Tape(torch.device("cpu"))
    tape.draws_from(torch.default_generator)
    tape.begin()
    try:
        torch.rand(3, generator=torch.default_generator)
        with pytest.raises(RuntimeError, match="a generator that is not registered"):
            torch.rand(3, generator=torch.Generator())
    finally:
        tape.end()


@pytest.mark.parametrize("kind", ["gaussian", "masks", "trunk", "gru"])
def test_acting_waits_for_nothing(kind: str) -> None:
    """Torch's distributions look at their parameters where they may: on a device that waits."""
    ours = Rollout(kind, capture=False, normalised=True)
    with no_waits(generators=[ours.generator]):
        for act in ours.acts:
            act()


def test_distributions_of_a_module_of_ones_own_do_not_look_either() -> None:
    def normal(z):
        return Normal(z[:, :2], z[:, 2:].exp())

    policy, critic = copy.deepcopy(Custom(normal)).float(), Critic(OBS, (5,))
    actor = ModuleActor(policy, critic, torch.default_generator, capture=False)
    room = torch.zeros(ROWS, 2), torch.zeros(ROWS), torch.zeros(ROWS)
    act = actor.bind(ActTensors(torch.randn(ROWS, OBS), None, *room))
    with no_waits(generators=[torch.default_generator]):
        act()


class Parts(nn.Module):
    """Observations in a dict, of which one is an image."""

    def __init__(self, outputs):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Tanh())
        self.out = nn.Linear(8 + 3, outputs)

    def features(self, obs):
        return self.out(torch.cat([self.image(obs["camera"].float() / 255.0), obs["arm"]], -1))

    def forward(self, obs):
        found = self.features(obs)
        return found if self.out.out_features == 1 else Categorical(logits=found)


def test_observations_of_parts() -> None:
    def rows(i):
        torch.manual_seed(i)
        camera = torch.randint(255, (ROWS, 1, 4, 4), dtype=torch.uint8)
        return {"camera": camera, "arm": torch.randn(ROWS, 3)}

    found, begun = [], captured_graphs().replays
    for capture in (True, False):
        torch.manual_seed(0)
        policy, critic = Parts(3), Critic.of_module(Parts(1), rows(0))
        actor = ModuleActor(policy, critic, torch.Generator().manual_seed(1), capture=capture)
        room = torch.zeros(ROWS, dtype=torch.int64), torch.zeros(ROWS), torch.zeros(ROWS)
        seen = rows(9)
        for i in range(4):
            actor.act(ActTensors(rows(i), None, *room, seen))
            found.append([*(t.clone() for t in room), *(part.clone() for part in seen.values())])
    assert all(same(ours, theirs) for ours, theirs in zip(found[:4], found[4:], strict=True))
    assert captured_graphs().replays == begun + 2
