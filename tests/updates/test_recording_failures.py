"""Failures in the middle of a recording: an error, no memory left, Ctrl-C. Parameters, moments,
lambda, generators and gradients are as after the run without a recording, or as before it.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from host_recorder import Tape, recording  # noqa: F401
from loop_cases import Plain
from recorded_cases import MODULES, wide
from torch.distributions import Normal

from trpo_fast import (
    Gaussian,
    MLPPolicy,
    NaturalGradient,
    Penalty,
    captured_graphs,
    flat_params,
    kl_penalty_update,
    trpo_update,
)
from trpo_fast.backends import captured, recorder
from trpo_fast.learner.actor import ActTensors, ModuleActor
from trpo_fast.learner.critic import Critic

FEW: dict[str, Any] = {"cg_iterations": 2, "backtrack_steps": 2}
State = list[torch.Tensor]
Made = tuple[Callable[[int], Any], Callable[[], State]]


@pytest.fixture(autouse=True)
def recorded(recording):  # noqa: F811
    yield recording


def update(capture: bool) -> Made:
    kind = wide("gaussian")
    policy = kind.policy()
    options = FEW | {"backend": "reference", "capture": capture}
    return (
        lambda i: trpo_update(policy, kind.batch(policy, i), **options),
        lambda: [flat_params(policy).clone()],
    )


def dual(capture: bool) -> Made:
    kind, penalty = wide("gaussian"), Penalty(3.0, "dual")
    policy = kind.policy()
    options = FEW | {"backend": "reference", "capture": capture, "rounds": 2}
    return (
        lambda i: kl_penalty_update(policy, kind.batch(policy, i), penalty, **options),
        lambda: [flat_params(policy).clone(), torch.tensor(penalty.value, dtype=torch.float64)],
    )


def step(capture: bool) -> Made:
    torch.manual_seed(0)
    module = Plain().double()
    optimizer = NaturalGradient(module, capture=capture, **FEW)
    for p in module.parameters():
        p.grad = torch.ones_like(p)

    def call(i: int) -> None:
        torch.manual_seed(50 + i)
        obs, advantages = torch.randn(20, 4, dtype=torch.float64), torch.randn(20).double()
        actions = torch.randint(3, (20,))
        optimizer.step(
            lambda: -(module(obs).log_prob(actions) * advantages).mean(), lambda: module(obs)
        )

    return call, lambda: [
        *(p.grad.clone() for p in module.parameters()),
        flat_params(module).clone(),
    ]


def newton(capture: bool) -> Made:
    return fit(capture, method="gauss_newton", steps=2, cg_iterations=2)


def fit(capture: bool, **options: Any) -> Made:
    torch.manual_seed(0)
    options |= {"epochs": 1, "minibatch": 16, "backend": "reference", "capture": capture}
    critic = Critic(3, (9,), **options)
    generator = torch.Generator()

    def call(i: int) -> None:
        torch.manual_seed(50 + i)
        critic.fit(torch.randn(30, 3), torch.randn(30), generator=generator.manual_seed(i))

    return call, lambda: [v.clone() for v in critic.state_dict().values()]


def act(capture: bool) -> Made:
    torch.manual_seed(0)
    policy, critic = MLPPolicy(4, Gaussian(2), hidden=(9,)), Critic(4, (9,))
    generator = torch.Generator().manual_seed(5)
    actor = ModuleActor(policy, critic, generator, capture=capture)
    room = torch.zeros(6, 2), torch.zeros(6), torch.zeros(6)

    def call(i: int) -> None:
        torch.manual_seed(50 + i)
        actor.act(ActTensors(torch.randn(6, 4), None, *room))

    return call, lambda: [*(t.clone() for t in room), generator.get_state()]


KINDS = [update, dual, step, fit, newton, act]


def same(found: State, wanted: State) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in zip(found, wanted, strict=True)
    )


class Failing(Tape):
    """Fails once, at an operator of a recording or in one of its methods."""

    place: Any = ""
    error: BaseException = RuntimeError("planted")
    failed = False

    def _fail_at(self, place: Any) -> None:
        if place == Failing.place and not Failing.failed:
            Failing.failed = True
            raise Failing.error

    def begin(self):
        self.count = 0
        self._fail_at("begin")
        super().begin()
        self._fail_at("begun")

    def end(self):
        if hasattr(self, "_patches"):
            super().end()
        self._fail_at("end")

    def replay(self):
        self._fail_at("replay")
        super().replay()
        self._fail_at("replayed")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._fail_at(self.count)
        self.count += 1
        return super().__torch_dispatch__(func, types, args, kwargs)


PLACES = ["begin", "begun", 0, 7, 19, "end", "replay", "replayed"]
PLANTED = [(act, place, RuntimeError("planted")) for place in PLACES]
for KIND in KINDS:
    PLANTED += [
        (KIND, 7, RuntimeError("planted")),
        (KIND, "end", torch.OutOfMemoryError("planted")),
    ]
    PLANTED += [(KIND, place, KeyboardInterrupt()) for place in (19, "replayed")]


@pytest.mark.parametrize(("kind", "place", "error"), PLANTED)
def test_a_failure_while_recording_leaves_all_as_it_should_be(monkeypatch, kind, place, error):
    monkeypatch.setitem(recorder.RECORDERS, "cpu", Failing)
    for name, value in (("place", place), ("error", error), ("failed", False)):
        monkeypatch.setattr(Failing, name, value)
    (ours, state), (theirs, wanted) = kind(True), kind(False)
    interrupted = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(4):
            before = state()
            theirs(i)
            try:
                ours(i)
            except KeyboardInterrupt:
                interrupted += 1
                assert same(state(), before)
                ours(i)
            assert same(state(), wanted())
    assert Failing.failed and interrupted == isinstance(error, KeyboardInterrupt)
    torch.ones(3).tolist()  # nothing of a recording is left behind
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_a_run_that_fails_is_as_it_would_be_unrecorded(fails):
    """While it is watched, once it would be recorded, and once it would be replayed."""
    found = []
    for capture in (True, False):
        kind = MODULES["normal"]
        policy, broken = kind.policy(), [False]

        def forward(z, broken=broken):
            if broken[0]:
                raise ValueError("mine")
            return Normal(z[:, :2], z[:, 2:].exp())

        policy.distribution = forward
        options = FEW | {"backend": "reference", "capture": capture}
        for i in range(5):
            batch, broken[0] = kind.batch(kind.policy(), i), i == fails
            with pytest.raises(ValueError, match="mine") if broken[0] else nullcontext():
                trpo_update(policy, batch, **options)
        assert captured_graphs().graphs == capture
        found.append([flat_params(policy).clone()])
    assert same(*found)


def test_a_failure_that_spoils_earlier_recordings_lets_them_go(monkeypatch):
    ours, state = update(True)
    for i in range(3):
        ours(i)
    held = captured_graphs()
    assert held.graphs == 1 and held.replays

    def end(self):
        Tape.end(self)
        self.spoiled = True
        raise RuntimeError("planted")

    monkeypatch.setitem(recorder.RECORDERS, "cpu", type("Spoiling", (Tape,), {"end": end}))
    others, _ = fit(True)
    with pytest.warns(UserWarning, match="cannot be recorded, RuntimeError: planted"):
        for i in range(2):
            others(i)
    assert captured_graphs().graphs == 0
    monkeypatch.setitem(recorder.RECORDERS, "cpu", Tape)
    theirs, wanted = update(False)
    for i in range(6):
        theirs(i)
    for i in range(3, 6):
        ours(i)
    assert same(state(), wanted()) and captured_graphs().graphs == 1


def test_recordings_that_make_room_for_each_other_again_and_again_are_not_made_for_ever(
    monkeypatch,
):
    monkeypatch.setattr(captured, "MOST_RECORDINGS", 1)
    monkeypatch.setattr(captured, "MOST_EVICTIONS", 2)
    begun, made = captured_graphs().evicted, [0]
    begin = Tape.begin
    monkeypatch.setattr(
        Tape, "begin", lambda self: (made.__setitem__(0, made[0] + 1), begin(self))[1]
    )
    (first, state), (second, _) = update(True), update(True)
    (theirs, wanted), _ = update(False), None
    with pytest.warns(UserWarning, match="its graph had to make room for others 2 times"):
        for i in range(14):
            first(i), second(i), theirs(i)
    assert captured_graphs().evicted <= begun + 4 and len(made) <= 6
    assert same(state(), wanted()) and captured_graphs().graphs == 1


@pytest.mark.parametrize("kind", [update, step, fit, act], ids=lambda kind: kind.__name__)
def test_threads_record_and_replay_beside_each_other(kind):
    """Each has a policy of its own; recordings are of one thread at a time on one key."""
    made = [kind(True) for _ in range(2)]
    errors: list[BaseException] = []

    def work(call: Callable[[int], Any]) -> None:
        try:
            for i in range(4):
                with lock:  # the stand-in patches the whole process while it records
                    call(i)
        except BaseException as error:
            errors.append(error)

    lock = threading.Lock()
    threads = [threading.Thread(target=work, args=(call,)) for call, _ in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    theirs, wanted = kind(False)
    for i in range(4):
        theirs(i)
    assert not errors and all(same(state(), wanted()) for _, state in made)


def test_copies_of_what_was_recorded_record_anew():
    kind = wide("gaussian")
    policy = kind.policy()
    for i in range(3):
        trpo_update(policy, kind.batch(policy, i), backend="reference", **FEW)
    other = copy.deepcopy(policy)
    info = trpo_update(other, kind.batch(other, 3), backend="reference", **FEW)
    assert not info.captured and not torch.equal(flat_params(other), flat_params(policy))
