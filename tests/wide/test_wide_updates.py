"""Solves and whole updates of wide nets: what the reference decides and finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import UPDATES, Case
from cuda_support import DEVICE, EMULATED, problem, to_device
from exactness import SOLUTION, STEP, no_worse
from no_waits import without_waits
from wide_support import SMALL, Wide, needs_triton

from trpo_fast import FisherOperator, MLPPolicy, trpo_update
from trpo_fast.backends.cpu import CpuBackend
from trpo_fast.backends.registry import registry
from trpo_fast.backends.support import Support
from trpo_fast.core.operator import Operator
from trpo_fast.core.problem import BackendUnavailable, CgConfig, UpdateConfig
from trpo_fast.policy.flat import flat_params

pytestmark = needs_triton
STEPS = 3


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """As for emulated kernels: CPU tensors stand for those of a device."""
    if EMULATED:
        monkeypatch.setenv("TRPO_FAST_EMULATE", "1")


CASES = {
    "fp16x3": (Case("gaussian", (129,), rows=99, weights=True), "fp16x3", {}),
    "tf32": (Case("bernoulli", (150,), rows=33), "tf32", {"fvp_rows": torch.arange(0, 33, 2)}),
    "fp32": (Case("categorical", (160, 130), rows=61, masks=True), "fp32", {"chunk_rows": 30}),
    "bf16x3": (Case("multicategorical", (129,), rows=40, group_size=4), "bf16x3", {}),
    "beta": (Case("beta", (130,), "elu", rows=33), "fp16x3", {"kl_direction": "reverse"}),
    "state": (Case("gaussian_state", (140,), "relu", rows=33), "fp16x3", {}),
}
LOOSE = {"tf32": STEP._replace(epsilon=1e-3), "bf16x3": STEP._replace(epsilon=2e-5)}


def updated(operator: Operator, config: UpdateConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics and parameters after an update, which is undone."""
    theta = operator.problem.theta
    before = theta.clone()
    stats = operator.update(config)
    after = theta.clone()
    theta.copy_(before)
    return stats.cpu(), after.cpu()


@pytest.mark.parametrize(("case", "precision", "options"), CASES.values(), ids=CASES.keys())
def test_updates_are_the_references(case, precision, options):
    w = Wide(case, precision=precision, **options)
    config = UpdateConfig(max_kl=0.05, cg=CgConfig(iterations=STEPS))
    (ours, theta), (its, single), (truth, exact) = (
        updated(operator, config) for operator in (w.kernels, w.single, w.exact)
    )
    assert ours[0] == its[0] == truth[0] == 0  # accepted
    assert ours[7] == truth[7]  # backtracks
    bound = LOOSE.get(precision, STEP)
    no_worse(theta, single, exact, bound, "parameters")
    no_worse(ours[1], its[1], truth[1], bound._replace(epsilon=20 * bound.epsilon), "KL")


def test_a_step_that_is_too_long_is_refused_alike():
    w = Wide(Case("gaussian", (129,), rows=33), precision="fp16x3")
    config = UpdateConfig(max_kl=1e4, cg=CgConfig(iterations=STEPS), backtrack_steps=1)
    (ours, theta), (its, single) = (updated(o, config) for o in (w.kernels, w.single))
    assert ours[0] == its[0] != 0
    assert torch.equal(theta, single) and torch.equal(theta, w.kernels.theta.cpu())


def test_solves_with_factors_and_of_several_sides():
    w = Wide(Case("gaussian", (129, 20), rows=77), precision="fp16x3")
    g = w.vector(2)
    for config in (CgConfig(iterations=2), CgConfig(iterations=1, preconditioner="kfac")):
        ours, single, truth = (
            operator.solve(given, config)
            for operator, given in (
                (w.kernels, g), (w.single, g), (w.exact, g.double().cpu())
            )
        )  # fmt: skip
        no_worse(ours.x, single.x, truth.x, SOLUTION)
        assert ours.factor_rows == single.factor_rows
        assert torch.equal(ours.iterations.cpu(), truth.iterations)


@pytest.mark.parametrize("precision", ["fp16x3", "fp32"])
@pytest.mark.parametrize("tiles", [SMALL, None], ids=["small", "whole"])
def test_solves_in_pieces_of_rows_and_sides(precision, tiles, monkeypatch):
    """Directions turn for all sides at once, products are of two sides and thirty rows."""
    from trpo_fast.backends.wide import operator

    monkeypatch.setattr(operator, "COLUMNS", 2)
    case = Case("gaussian", (129, 20), rows=77, obs_dim=66, weights=True)
    w = Wide(case, precision=precision, chunk_rows=30, tiles=tiles)
    g, config = w.vector(3), CgConfig(iterations=3)
    ours, single, truth = (
        operator.solve(given, config)
        for operator, given in ((w.kernels, g), (w.single, g), (w.exact, g.double().cpu()))
    )
    no_worse(ours.x, single.x, truth.x, SOLUTION)
    for name in ("quad", "first_curvature", "residual_norm"):
        no_worse(getattr(ours, name), getattr(single, name), getattr(truth, name), SOLUTION, name)
    alone = w.kernels.solve(g[2], config)
    assert precision == "fp32" or torch.equal(ours.x[2], alone.x)


@pytest.mark.parametrize("precision", ["fp16x3", "fp32"])
def test_equal_bits_from_equal_inputs(precision):
    w = Wide(Case("gaussian", (129,), rows=99), precision=precision)
    config = UpdateConfig(cg=CgConfig(iterations=2))
    first, again = updated(w.kernels, config), updated(w.kernels, config)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


SMALLEST = replace(Case("gaussian", (129,), rows=33), dtype=torch.float32)


def setting() -> tuple[MLPPolicy, object]:
    policy = SMALLEST.policy()
    batch = to_device(SMALLEST.batch(policy))
    return policy.to(DEVICE), batch


FEW = {"pg_update": {}, "kl_penalty_adam": {}, "rat_update": {"max_rows": 16}}


@pytest.mark.parametrize("name", UPDATES)
def test_every_update_names_the_backend(name):
    policy, batch = setting()
    before = flat_params(policy).clone()
    options = FEW.get(name, {"cg_iterations": 1})
    info = UPDATES[name](policy, batch, backend="cuda", precision="fp16x3", **options)
    assert info.backend == "cuda" and info.accepted
    assert not torch.equal(before, flat_params(policy))


def test_the_operator_by_name():
    policy, batch = setting()
    f = FisherOperator(policy, batch.obs, backend="cuda", precision="fp16x3")
    v = torch.randn(policy.spec.size, device=DEVICE)
    reference = FisherOperator(policy, batch.obs, backend="reference")
    assert f.backend == "cuda" and f.scratch_bytes > 0
    torch.testing.assert_close(f @ v, reference @ v, rtol=1e-4, atol=1e-5)


def test_bad_values_end_an_update():
    policy, batch = setting()
    advantages = batch.advantages.clone()
    advantages[4] = float("nan")
    bad = replace(batch, advantages=advantages)
    before = flat_params(policy).clone()
    info = trpo_update(policy, bad, backend="cuda", precision="fp16x3", cg_iterations=1, sync=False)
    assert info.reason == "bad_values" and torch.equal(before, flat_params(policy))


def test_a_kernel_that_fails_under_auto_leaves_it_to_the_reference(monkeypatch):
    from trpo_fast.backends.wide import product, solve  # which import Triton

    def fails(*_arguments, **_constants):
        raise BackendUnavailable("no launch today")

    monkeypatch.setattr(CpuBackend, "machine_support", lambda self: Support("not asked"))
    for module in (product, solve):
        monkeypatch.setattr(module, "launch", fails)
    policy, batch = setting()
    with pytest.warns(UserWarning, match="goes on with 'reference'.*no launch today"):
        info = trpo_update(policy, batch, backend="auto", cg_iterations=2)
    assert info.backend == "reference" and info.accepted
    policy, batch = setting()
    with pytest.raises(BackendUnavailable, match="no launch today"):
        trpo_update(policy, batch, backend="cuda", cg_iterations=2)


def test_what_is_refused_says_why():
    policy, batch = setting()
    for options, words in (
        ({"precision": "bf16x6"}, "'bf16x6' is not among its"),
        ({"fisher": "empirical"}, "in the reference backend only"),
    ):
        assert words in registry()["cuda"].support(problem(policy, batch, **options)).why_not


RECORDED = [("gaussian", "fp16x3", None), ("multicategorical", "fp32", "kfac")]


@pytest.mark.parametrize(("head", "precision", "factors"), RECORDED)
def test_the_host_waits_for_nothing(head, precision, factors):
    """So that a whole update, its operator with it, can be a CUDA graph."""
    case = Case(head, (129,), rows=33, weights=True, masks=head != "gaussian")
    from trpo_fast.backends.wide.operator import WideOperator

    w = Wide(case, precision=precision)
    config = UpdateConfig(cg=CgConfig(iterations=2, preconditioner=factors), backtrack_steps=2)
    explicit = updated(w.kernels, config)
    given = w.kernels.problem
    stats = without_waits(lambda: WideOperator(given).update(config))
    assert torch.equal(stats.cpu()[:8], explicit[0][:8])
    assert registry()["cuda"].records(given)
