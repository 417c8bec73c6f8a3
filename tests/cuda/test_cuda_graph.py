"""A user's CUDA graph around each call: nothing in it waits or is decided on the host once and for
all, and a replay on other contents of the same tensors leaves what a fresh call leaves.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from cases import UPDATES, Case
from cuda_graph import HostGraph, asked_from, capture, no_values_compared, tensors, waits
from cuda_support import DEVICE, EMULATED, Emulator, kernels, to_device  # noqa: F401
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trpo_fast import Batch, FisherOperator, MLPPolicy, Penalty, kl_penalty_update, trpo_update
from trpo_fast._base import arguments
from trpo_fast.backends import cuda as cuda_backend
from trpo_fast.backends.support import SERVES
from trpo_fast.learner import advantage
from trpo_fast.learner.actor import ActTensors
from trpo_fast.learner.actor_cuda import CudaActor
from trpo_fast.learner.critic import Critic
from trpo_fast.policy.flat import flat_params


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch):
    no_values_compared(monkeypatch)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


CASE = Case("gaussian", (8, 5), rows=33, dtype=torch.float32)
FIXED = partial(kl_penalty_update, penalty=Penalty(2.0, rule="fixed"), backtrack_steps=3)
CALLS: dict[str, tuple[Any, Case, dict[str, Any]]] = {
    "trpo": (trpo_update, CASE, {}),
    "fp16x3": (trpo_update, CASE, {"precision": "fp16x3"}),
    "weights": (trpo_update, replace(CASE, weights=True), {"chunk_rows": 16}),
    "fvp_rows": (trpo_update, CASE, {"fvp_rows": 13, "kl_direction": "reverse"}),
    "groups": (trpo_update, replace(CASE, group_size=3), {}),
    "masks": (trpo_update, replace(CASE, head="multicategorical", masks=True), {}),
    "npg": (UPDATES["npg_update"], CASE, {}),
    "pg": (UPDATES["pg_update"], CASE, {"max_grad_norm": 0.1}),
    "kl-penalty": (FIXED, CASE, {}),
}
# Nor does this one wait, but the linear algebra of torch that it calls may refuse a capture.
UNCAPTURED: dict[str, tuple[Any, Case, dict[str, Any]]] = {
    "rat": (UPDATES["rat_update"], CASE, {}),
    "rat_rows": (UPDATES["rat_update"], replace(CASE, weights=True), {"max_rows": 13}),
    "rat_groups": (UPDATES["rat_update"], replace(CASE, group_size=3), {"fvp_rows": 13}),
}


def fill(case: Case, policy: MLPPolicy, batch: Batch, seed: int) -> None:
    """Another policy and other rows, in the same memory."""
    other = replace(case, seed=seed)
    fresh = other.policy()
    with torch.no_grad():
        flat_params(policy).copy_(flat_params(fresh))
        for name, value in vars(other.batch(fresh)).items():
            if isinstance(value, Tensor):
                getattr(batch, name).copy_(value)


@pytest.mark.parametrize("name", CALLS)
def test_a_replayed_update_is_a_fresh_one(name):
    update, case, options = CALLS[name]
    policy = case.policy().to(DEVICE)
    batch = to_device(case.batch(case.policy()))
    call = partial(update, policy, batch, backend="cuda", sync=False, **options)
    graph, info = capture(call)
    for seed in (5, 6):
        fill(case, policy, batch, seed)
        graph.replay()
        info.refresh()
        found = [info.stats.clone(), flat_params(policy).clone()]
        fill(case, policy, batch, seed)
        assert same(found, [call().stats, flat_params(policy)]), info.reason
        assert info.accepted and info.backend == "cuda"


def test_a_failed_replay_moves_nothing():
    policy, batch = CASE.policy().to(DEVICE), to_device(CASE.batch(CASE.policy()))
    graph, info = capture(partial(trpo_update, policy, batch, backend="cuda", sync=False))
    fill(CASE, policy, batch, 5)
    batch.advantages[3] = float("nan")
    before = flat_params(policy).clone()
    graph.replay()
    assert info.reason == "bad_values" and torch.equal(before, flat_params(policy))


@pytest.mark.parametrize("columns", [(), (2,)], ids=["vector", "columns"])
def test_products_and_solves(columns):
    policy, obs = CASE.policy().to(DEVICE), torch.randn(33, 5, device=DEVICE)
    g = torch.randn(flat_params(policy).numel(), *columns, device=DEVICE)

    def call():
        F = FisherOperator(policy, obs, backend="cuda", sync=False)
        solution = F.solve(g, iterations=4)
        return [F @ g, solution.x, solution.quad, solution.iterations]

    graph, found = capture(call)
    for seed in (1, 2):
        torch.manual_seed(seed)
        flat_params(policy).normal_(std=0.3)
        obs.normal_()
        g.normal_()
        graph.replay()
        assert same(found, call())


def test_the_registered_operators():
    policy, batch = CASE.policy().to(DEVICE), to_device(CASE.batch(CASE.policy()))
    theta, spec = flat_params(policy), policy.spec
    net = (spec.widths, spec.activation, spec.head, spec.nvec)
    rows = torch.arange(0, 33, 2, device=DEVICE)

    def call():
        given = (batch.obs, batch.actions, batch.advantages, *net, batch.log_probs)
        return list(torch.ops.trpo_fast.update(theta, *given, fvp_rows=rows, backend="cuda"))

    call()  # makes what is made once for a shape
    graph, found = capture(call)
    fill(CASE, policy, batch, 5)
    graph.replay()
    assert same(found, call())


@pytest.mark.parametrize("own", [False, True], ids=["torch's", "own"])
def test_acting_draws_anew_at_every_replay(own):
    """From torch's generator or from one that was registered with the graph, as a trainer's is."""
    generator = torch.Generator(DEVICE).manual_seed(5) if own else None
    policy, critic = CASE.policy().to(DEVICE), Critic(5, (8,), device=DEVICE)
    obs = torch.randn(9, 5, device=DEVICE)
    actions, *rest = (torch.empty(s, device=DEVICE) for s in ((9, 3), (9,), (9,)))
    call = CudaActor(policy, critic, generator).bind(ActTensors(obs, None, actions, *rest))
    graph, _ = capture(call, *([generator] if own else []))
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        obs.normal_()
        flat_params(policy).normal_(std=0.3)
        graph.replay()
        drawn.append(actions.clone())
        torch.testing.assert_close(rest[0], policy(obs).log_prob(actions).detach())
        torch.testing.assert_close(rest[1], critic.values(obs))
    assert not torch.equal(*drawn)


def test_advantages():
    given = [torch.randn(40, 3, device=DEVICE) for _ in range(3)]
    done = torch.zeros(40, 3, dtype=torch.bool, device=DEVICE)
    call = partial(advantage.gae, *given, done, gamma=0.9, lam=0.8, backend="cuda")
    graph, found = capture(call)
    for tensor in given:
        tensor.normal_()
    done[7] = True
    graph.replay()
    assert torch.equal(found, call())


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_a_replayed_fit_is_the_next_one(method):
    """Adam's count of steps goes on with every replay; every row counts, so that only the order of
    the sums depends on the permutations, which a graph draws from elsewhere.
    """
    options = {"method": method, "fraction": 1.0, "steps": 1, "epochs": 2, "cg_iterations": 4}
    obs, returns = torch.randn(40, 3, device=DEVICE), torch.randn(40, device=DEVICE)
    ours, twin = (
        Critic(3, (8,), backend="cuda", device=DEVICE, minibatch=64, damping=0.1, **options)
        for _ in range(2)
    )
    call = partial(ours.fit, obs, returns, sync=False)
    call()
    graph, info = capture(call)
    twin.load_state_dict(ours.state_dict())
    twin.adam_steps = int(twin.taken.copy_(ours.taken))
    for _ in range(3):
        obs.normal_()
        returns.normal_()
        graph.replay()
        wanted = twin.fit(obs, returns, sync=False)
        torch.testing.assert_close(info.loss, wanted.loss, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.theta, twin.theta, rtol=1e-4, atol=1e-5)
    assert int(ours.taken) == (twin.adam_steps if method == "adam" else 0)


def test_the_first_fit_is_not_captured(monkeypatch):
    critic = Critic(3, (8,), backend="cuda", device=DEVICE)
    rows = torch.randn(40, 3, device=DEVICE), torch.randn(40, device=DEVICE)
    monkeypatch.setattr("trpo_fast.learner.critic.capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="fit once before"):
        critic.fit(*rows, sync=False)
    assert critic.fits == 0


class NoCopies(TorchDispatchMode):
    """Refuses what makes the host wait: an answer from the device, a copy to it or from it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors((args, tuple(kwargs.values())))
        out = func(*args, **kwargs)
        places = {t.device.type for t in [*given, *tensors(out)]}
        if waits(func, args) or len(places) > 1:
            raise RuntimeError(f"{func} waits: {asked_from()}")
        return out


class NoValues(TorchFunctionMode):
    """Refuses numbers of the host as tensors of the device, which on "meta" are no copy."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if made and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            raise RuntimeError(f"{func.__name__} waits: {asked_from()}")
        return func(*args, **kwargs)


@contextlib.contextmanager
def no_copies():
    with NoCopies(), NoValues():
        yield


class NoKernels:
    """The native half for tensors without memory."""

    @staticmethod
    def scratch_bytes(factor_stride):
        return 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.launches: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.launches.append(name)


@pytest.fixture
def far_away(monkeypatch):
    """Tensors on "meta" stand for those of a device: no answer of theirs reaches the host."""
    native = NoKernels()
    monkeypatch.setattr(native, "CudaOperator", lambda *_, **__: native, raising=False)
    monkeypatch.setattr(cuda_backend, "connected", lambda: native)
    monkeypatch.setattr(cuda_backend, "plan_of", lambda *_: None)
    monkeypatch.setattr(cuda_backend.CudaBackend, "problem_support", lambda self, problem: SERVES)
    monkeypatch.setattr(arguments, "_has_memory", lambda value: True)
    return native


@pytest.mark.parametrize("name", CALLS | UNCAPTURED)
def test_no_update_copies_between_host_and_device(far_away, name):
    """What the emulator cannot see on CPU tensors: scalars that torch would copy to a device."""
    update, case, options = (CALLS | UNCAPTURED)[name]
    policy, batch = case.policy(), case.batch(case.policy())
    policy, batch = policy.to("meta"), to_device(batch, device="meta")
    with no_copies():
        update(policy, batch, backend="cuda", sync=False, **options)
    assert far_away.launches


def test_no_solve_copies_between_host_and_device(far_away):
    policy, obs = CASE.policy().to("meta"), torch.empty(33, 5, device="meta")
    with no_copies():
        F = FisherOperator(policy, obs, fvp_rows=7, backend="cuda", sync=False)
        F.solve(F @ torch.empty(F.shape[0], 2, device="meta"))
    assert far_away.launches == ["fvp", "solve"]


@pytest.mark.parametrize(
    "ask", [lambda t: t.to("cpu"), lambda t: torch.as_tensor(0.5, device="meta"), float]
)
def test_copies_are_noticed(ask):
    with pytest.raises(RuntimeError), no_copies():
        ask(torch.zeros((), device="meta"))


@pytest.mark.skipif(not EMULATED, reason="CUDA itself says what a capture forbids")
def test_what_waits_is_noticed():
    policy, batch = CASE.policy(), CASE.batch(CASE.policy())
    with pytest.raises(RuntimeError, match="tolist while a stream is captured"):
        capture(partial(trpo_update, policy, batch, backend="cuda", sync=True))
    with pytest.raises(RuntimeError, match=r"while a stream is captured: .*core.cg"):
        capture(partial(trpo_update, policy, batch, backend="reference", sync=False))


@pytest.mark.skipif(not EMULATED, reason="the emulator records launches, a device does not")
def test_a_capture_runs_no_kernel_and_a_replay_takes_arguments_by_value():
    policy, batch = CASE.policy(), to_device(CASE.batch(CASE.policy()))
    before = flat_params(policy).clone()
    Emulator().counters()
    graph, _ = capture(partial(trpo_update, policy, batch, backend="cuda", sync=False))
    launches = 0
    assert isinstance(graph, HostGraph) and graph.launches == 1
    assert Emulator().counters()[launches] == 0 and torch.equal(before, flat_params(policy))
    graph.replay()
    assert Emulator().counters()[launches] == 1 and not torch.equal(before, flat_params(policy))
