"""Which calls one recording serves, what is never recorded, and how recordings leave."""

from __future__ import annotations

import copy
import gc
import re
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from head_cases import MAKERS, register, unregister_all
from host_recorder import Tape, recording  # noqa: F401
from module_cases import Custom
from recorded_cases import MODULES, wide
from torch import nn
from torch.distributions import Normal

from trpo_fast import captured_graphs, flat_params, pg_update, trpo_update
from trpo_fast.backends import captured, watch

FEW = {"backend": "reference", "cg_iterations": 3, "backtrack_steps": 3}


@pytest.fixture(autouse=True)
def recorded(recording):  # noqa: F811
    yield recording


def replays(policy, kind, **options) -> list[bool]:
    return [
        trpo_update(policy, kind.batch(policy, i), **(FEW | options)).captured for i in range(3)
    ]


def test_one_recording_serves_one_key():
    """Everything that decides which operators run, and on what memory, makes another key."""
    kind = MODULES["normal"]
    policy = kind.policy()
    trunk = policy.trunk

    def changed(call):
        assert replays(policy, kind)[-1]
        call()
        assert not trpo_update(policy, kind.batch(policy, 5), **FEW).captured

    changed(lambda: trunk[1].eval())  # a flag
    changed(lambda: trunk[0].register_forward_hook(lambda *_: None))
    changed(lambda: setattr(trunk[1], "eps", 1e-3))  # a number that a forward reads
    policy.settings = SimpleNamespace(temperature=1.0)
    changed(lambda: setattr(policy.settings, "temperature", 2.0))
    changed(lambda: setattr(policy, "distribution", lambda z: Normal(z[:, :2], z[:, 2:].exp() + 1)))
    changed(lambda: trunk.__setitem__(2, nn.Tanh()))
    changed(lambda: policy.out.bias.requires_grad_(False))  # the flat vector is another
    changed(lambda: setattr(policy.out, "bias", nn.Parameter(policy.out.bias.clone())))
    assert replays(policy, kind)[-1]
    batch = kind.batch(policy, 9)
    for options in ({"damping": 0.2}, {"cg_tol": 0.1}, {"kl_direction": "reverse"}):
        assert not trpo_update(policy, batch, **FEW | options).captured
    assert not trpo_update(policy, kind.batch(policy, 9, rows=22), **FEW).captured
    weighted = replace(batch, weights=torch.ones(21, dtype=torch.float64))
    assert not trpo_update(policy, weighted, **FEW).captured
    with torch.inference_mode():
        assert not trpo_update(policy, batch, **FEW).captured
    assert trpo_update(policy, batch, **FEW).captured
    assert not trpo_update(policy, batch, capture=False, **FEW).captured


def test_shapes_that_never_come_again_are_not_watched_for_long(monkeypatch):
    kind = MODULES["normal"]
    policy, watched = kind.policy(), []
    monkeypatch.setattr(
        captured, "Watch", lambda *given: watched.append(given) or watch.Watch(*given)
    )
    with pytest.warns(UserWarning, match="8 calls in a row had shapes or settings of their own"):
        for i in range(10):
            trpo_update(policy, kind.batch(policy, 0, rows=20 + i), **FEW)
    assert len(watched) == 8
    seen = [trpo_update(policy, kind.batch(policy, i), **FEW).captured for i in range(4)]
    assert seen[-1] and len(watched) <= 10


def test_a_head_that_is_registered_anew_makes_another_key():
    kind = replace(MODULES["normal"], make=lambda: Custom(MAKERS["normal"]))
    policy = kind.policy()
    try:
        register("normal")
        assert replays(policy, kind)[-1]
        register("normal", entropy=lambda found: found.entropy() + 1.0)
        assert not trpo_update(policy, kind.batch(policy, 5), **FEW).captured
    finally:
        unregister_all()


def test_values_of_parameters_and_buffers_are_read_where_they_lie():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)
            self.register_buffer("shift", torch.zeros(4))

        def forward(self, obs):
            return Normal(self.net(obs - self.shift), 1.0 + 0.0 * obs[:, :2])

    kind = replace(MODULES["normal"], make=Shifted)
    policy = kind.policy()
    assert replays(policy, kind)[-1]
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for module in (policy, other):
            module.shift.add_(0.5)
            module.net.bias.mul_(2.0)
    batch = kind.batch(policy, 7)
    assert trpo_update(policy, batch, **FEW).captured
    trpo_update(other, batch, capture=False, **FEW)
    assert torch.equal(flat_params(policy), flat_params(other))


class Odd(nn.Module):
    """A net with a habit that no recording keeps."""

    def __init__(self, habit):
        super().__init__()
        self.net, self.habit = nn.Linear(4, 2), habit
        self.notes = [0, torch.zeros(2, dtype=torch.float64), np.ones(2)]

    def forward(self, obs):
        mean = self.habit(self.notes, self.net(obs))
        return Normal(mean, torch.ones_like(mean))


def branches(notes, mean):
    return mean if bool(mean.detach().sum() > 0) else 2.0 * mean


def draws(notes, mean):
    return mean + 0.0 * torch.randn_like(mean)  # what depends on them is refused on a CPU


def writes(notes, mean):
    with torch.no_grad():
        notes[1].add_(1.0)
    return mean


COUNTS = [0]


def alternates(notes, mean):
    COUNTS[0] += 1
    return mean + mean if COUNTS[0] > 5 else 2.0 * mean


def counts(notes, mean):
    COUNTS[0] += 1
    return mean * (1.0 + 1e-9 * COUNTS[0])


TABLE = np.ones(2)
SHARED = torch.from_numpy(TABLE)


def drifts(notes, mean):
    """What the host writes behind torch's back is in no recording."""
    TABLE[:] *= 1.001
    return mean * SHARED


def makes(notes, mean):
    return mean * torch.tensor([1.0, 2.0], dtype=mean.dtype)


HABITS = {
    branches: "the host waits for _local_scalar_dense .*test_captured_keys.py",
    draws: "random numbers are drawn by randn_like .*test_captured_keys.py",
    writes: "what lies outside of it is written by add_",
    alternates: "its second run takes other operators, ",
    counts: "its second run takes other operators, aten.mul.Tensor of other numbers",
    drifts: "a replay gives other results",
    makes: "a tensor of the host's numbers is made by lift_fresh",
}


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)
def test_what_cannot_be_recorded_runs_as_it_did_and_one_warning_says_why(habit):
    kind = replace(MODULES["normal"], make=lambda: Odd(habit))
    policy, COUNTS[0] = kind.policy(), 0
    options = FEW | ({"backend": "autograd"} if habit is writes else {})  # torch.func refuses it
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for i in range(4):
            info = trpo_update(policy, kind.batch(policy, i), **options)
            assert not info.captured and info.reason in ("accepted", "line_search_failed")
    (words,) = [str(w.message) for w in told if "capture" in str(w.message)]
    assert words.startswith("capture: trpo_update runs operator by operator")
    assert re.search(HABITS[habit], words), words


def test_code_of_the_callers_runs_operator_by_operator():
    kind = wide("gaussian")
    policy = kind.policy()
    with pytest.warns(UserWarning, match="its preconditioner is a function of the caller's"):
        assert not any(replays(policy, kind, preconditioner=lambda r: r))
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="pg_update .* an optimiser of the caller's"):
        pg_update(policy, kind.batch(policy, 1), optimizer=optimizer, backend="reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy = kind.policy()
        trpo_update(policy, kind.batch(policy, 1), preconditioner=lambda r: r, capture=False, **FEW)


def test_an_error_of_the_recorder_leaves_the_run_s_results(monkeypatch):
    kind = wide("gaussian")
    policy = kind.policy()
    other = copy.deepcopy(policy)

    def fail(self):
        self.__exit__(None, None, None)
        self._patches.undo()
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(Tape, "end", fail)
    batch = kind.batch(policy, 0)
    with pytest.warns(UserWarning, match="cannot be recorded, RuntimeError: operation not perm"):
        assert not any([trpo_update(policy, batch, **FEW).captured for _ in range(3)])
    for _ in range(3):
        trpo_update(other, batch, capture=False, **FEW)
    assert torch.equal(flat_params(policy), flat_params(other))


def test_an_error_within_a_recording_is_what_is_told(monkeypatch):
    """Not the one that the end of a broken recording raises after it."""
    kind = MODULES["normal"]
    policy, begin, end = kind.policy(), Tape.begin, Tape.end

    def spoiled(self):
        begin(self)
        policy.trunk.forward = None

    def ended(self):
        end(self)
        policy.trunk.__dict__.pop("forward", None)
        raise RuntimeError("the recording is broken")

    monkeypatch.setattr(Tape, "begin", spoiled)
    monkeypatch.setattr(Tape, "end", ended)
    with pytest.warns(UserWarning, match="recorded, TypeError: 'NoneType' object is not callable"):
        assert not any(replays(policy, kind)[:2])


def test_ctrl_c_while_recording_leaves_what_was_before_the_run(monkeypatch):
    kind = wide("gaussian")
    policy, batch = kind.policy(), kind.batch(kind.policy(), 0)
    other = copy.deepcopy(policy)
    trpo_update(policy, batch, **FEW)

    def press(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tape, "replay", press)
    with pytest.raises(KeyboardInterrupt):
        trpo_update(policy, batch, **FEW)
    trpo_update(other, batch, capture=False, **FEW)
    assert torch.equal(flat_params(policy), flat_params(other))
    assert captured_graphs().graphs == 0


def test_the_oldest_recordings_make_room(monkeypatch):
    monkeypatch.setattr(captured, "MOST_RECORDINGS", 2)
    kind, policies = wide("gaussian"), [wide("gaussian").policy() for _ in range(3)]
    begin = captured_graphs()
    for policy in policies[:2]:
        replays(policy, kind)
    held = captured_graphs()
    assert held.graphs == 2 and held.replays == begin.replays + 2
    assert replays(policies[0], kind) == [True] * 3  # used later than the second's
    assert replays(policies[2], kind)[-1]
    after = captured_graphs()
    assert after.graphs == 2 and after.evicted == begin.evicted + 1
    assert trpo_update(policies[0], kind.batch(policies[0], 1), **FEW).captured
    assert not trpo_update(policies[1], kind.batch(policies[1], 1), **FEW).captured

    monkeypatch.setattr(Tape, "memory", int(1.5 * held.nbytes / 2))  # for one, not for two
    other = kind.policy()
    assert replays(other, kind)[-1] and captured_graphs().graphs == 1
    assert 0 < captured_graphs().nbytes <= Tape.memory
    monkeypatch.setattr(Tape, "memory", 1000)
    with pytest.warns(UserWarning, match=r"its graph takes \d+ bytes, more than the 1000"):
        assert not any(replays(kind.policy(), kind))


def test_recordings_go_with_their_policy():
    kind = MODULES["cell"]
    policy = kind.policy()
    assert replays(policy, kind)[-1] and captured_graphs().graphs == 1
    del policy
    gc.collect()
    assert captured_graphs().graphs == captured_graphs().nbytes == 0


def test_tensors_of_other_places_stay_alive_and_are_read_anew():
    """A table that a forward finds in its closure is read where it lies, for as long as needed."""
    table = torch.ones(2, dtype=torch.float64)
    place = [table]
    kind = replace(MODULES["normal"], make=lambda: Odd(lambda notes, mean: mean * place[0]))
    policy = kind.policy()
    assert replays(policy, kind)[-1]
    other = copy.deepcopy(policy)
    table.mul_(2.0)
    batch = kind.batch(policy, 5)
    assert trpo_update(policy, batch, **FEW).captured
    trpo_update(other, batch, capture=False, **FEW)
    assert torch.equal(flat_params(policy), flat_params(other))
