"""torch.ops.trpo_fast: schemas, fake kernels, torch.compile, and equality with the eager API."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import HEADS, Case, few
from sampler_cases import moved

from trpo_fast import FisherOperator, distribution_params, flat_params, trpo_update
from trpo_fast.core.problem import STATS
from trpo_fast.updates.compiled import SOLVE_STATS

ops = torch.ops.trpo_fast


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Every test compiles on its own: none inherits another's shapes or recompile count."""
    torch._dynamo.reset()


def net(policy):
    spec = policy.spec
    return list(spec.widths), spec.activation, spec.head, list(spec.nvec)


def problem(case):
    policy = case.policy()
    batch = case.batch(policy)
    theta = flat_params(policy).clone()
    torch.manual_seed(3)
    return policy, batch, theta, torch.randn(theta.numel(), 2, dtype=theta.dtype)


def calls(case):
    """Every operator with the arguments of one case: (operator, args, kwargs)."""
    policy, batch, theta, v = problem(case)
    rows = {"weights": batch.weights, "action_mask": batch.action_mask}
    steps = {**rows, "log_probs": batch.log_probs}
    data = (theta, batch.obs, batch.actions, batch.advantages, *net(policy))
    old = distribution_params(policy, batch.obs, batch.action_mask)
    index = torch.arange(0, len(batch), 2)
    return [
        (ops.fvp.default, (theta, batch.obs, v[:, 0].contiguous(), *net(policy)), rows),
        (ops.fvp.default, (theta, batch.obs, v, *net(policy)), {"fvp_rows": index}),
        (ops.solve.default, (theta, batch.obs, v[:, 0].contiguous(), *net(policy)), rows),
        (ops.solve.default, (theta, batch.obs, v, *net(policy)), {**rows, "iterations": 3}),
        (ops.gradient.default, data, steps),
        (ops.gradient.default, data, {**steps, "old_params": old}),
        (ops.update.default, data, {**steps, "max_kl": 0.02, "kl_reduction": "mean"}),
        (ops.update.default, data, {**steps, "old_params": old, "constraint": "max"}),
    ]


@pytest.mark.parametrize("case", few(), ids=str)
def test_opcheck(case):
    for operator, args, kwargs in calls(case):
        torch.library.opcheck(operator, args, kwargs)


@pytest.mark.parametrize("head", HEADS)
def test_compiles_in_one_graph(head):
    for operator, args, kwargs in calls(Case(head, rows=7, dtype=torch.float32)):
        torch._dynamo.reset()

        def function(theta, *rest, operator=operator, kwargs=kwargs):
            result = operator(theta, *rest, **kwargs)
            return result if isinstance(result, tuple) else (result,)

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        for got, want in zip(compiled(*args), function(*args), strict=True):
            assert torch.equal(got, want), operator


def test_compiles_with_inductor_around_it():
    policy, batch, theta, v = problem(Case(dtype=torch.float32))

    def function(theta, obs, g):
        x, stats = ops.solve(theta, 2.0 * obs, g, *net(policy))
        return (x * stats[0]).sum()

    compiled = torch.compile(function, fullgraph=True)
    want = function(theta, batch.obs, v[:, 0].contiguous())
    torch.testing.assert_close(compiled(theta, batch.obs, v[:, 0].contiguous()), want)


@pytest.mark.parametrize("case", few(), ids=str)
def test_equals_the_eager_api(case):
    policy, batch, theta, v = problem(case)
    rows = {"weights": batch.weights, "action_mask": batch.action_mask}
    fisher = FisherOperator(policy, batch.obs, damping=0.3, **rows)
    product = ops.fvp(theta, batch.obs, v, *net(policy), **rows, damping=0.3)
    assert torch.equal(product, fisher @ v)
    x, stats = ops.solve(theta, batch.obs, v, *net(policy), **rows, damping=0.3, iterations=4)
    found = fisher.solve(v, iterations=4)
    assert torch.equal(x, found.x)
    assert torch.equal(
        stats,
        torch.stack(
            [torch.as_tensor(getattr(found, n)).expand_as(found.quad) for n in SOLVE_STATS]
        ),
    )


@pytest.mark.parametrize("case", few(), ids=str)
def test_update_moves_nothing_in_place(case):
    policy, batch, theta, _ = problem(case)
    before = theta.clone()
    moved, stats = ops.update(
        *(theta, batch.obs, batch.actions, batch.advantages, *net(policy)),
        log_probs=batch.log_probs,
        weights=batch.weights,
        action_mask=batch.action_mask,
    )
    assert torch.equal(theta, before)
    info = trpo_update(policy, batch)
    assert info.accepted and stats[STATS.index("reason")] == 0
    assert torch.equal(moved, flat_params(policy)) and torch.equal(stats, info.stats)


@pytest.mark.parametrize("case", few(), ids=str)
def test_an_update_of_rows_that_another_policy_sampled(case):
    m = moved(case)
    theta, batch = flat_params(m.policy).clone(), m.batch
    data = (theta, batch.obs, batch.actions, batch.advantages, *net(m.policy))
    rows = {"weights": batch.weights, "action_mask": batch.action_mask}
    given = {**rows, "old_params": batch.old_params, "max_kl": 0.1, "constraint": "max"}
    g, found = ops.gradient(*data, **rows, old_params=batch.old_params)
    after, stats = ops.update(*data, **given)
    info = trpo_update(m.policy, replace(batch, log_probs=None), max_kl=0.1, constraint="max")
    assert info.accepted and info.kl_from == "sampler"
    assert torch.equal(after, flat_params(m.policy)) and torch.equal(stats, info.stats)
    assert float(found[0]) == pytest.approx(info.surrogate_before, rel=1e-12)
    assert float(g.norm()) == pytest.approx(info.gradient_norm, rel=1e-12)


def test_bad_values_become_a_reason():
    policy, batch, theta, _ = problem(Case())
    batch.advantages[3] = float("nan")
    data = (theta, batch.obs, batch.actions, batch.advantages, *net(policy))
    moved, stats = ops.update(*data)
    assert torch.equal(moved, theta) and stats[STATS.index("reason")] != 0


BAD = {
    "theta": ("theta", lambda a: [a[0][:-1], *a[1:]]),
    "obs": ("obs", lambda a: [a[0], a[1][:, 1:], *a[2:]]),
    "v": ("v", lambda a: [*a[:2], a[2][:-1], *a[3:]]),
    "widths": ("widths", lambda a: [*a[:3], [5], *a[4:]]),
    "activation": ("activation", lambda a: [*a[:4], "softmax", *a[5:]]),
    "head": ("head", lambda a: [*a[:5], "poisson", a[6]]),
    "nvec": ("nvec", lambda a: [*a[:5], "multicategorical", [1, 1]]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_structure_raises(name):
    policy, batch, theta, v = problem(Case())
    argument, spoil = BAD[name]
    with pytest.raises(ValueError, match=f"^{argument}: expected .* got "):
        ops.fvp(*spoil([theta, batch.obs, v, *net(policy)]))


@pytest.mark.parametrize("place", range(4))
def test_a_tensor_without_memory_beside_others_gets_no_answer(place):
    """Torch takes the operator's shapes for such a call, and would return unwritten memory."""
    policy, batch, theta, _ = problem(Case())
    data = [theta, batch.obs, batch.actions, batch.advantages]
    data[place] = data[place].to("meta")
    for operator in (ops.gradient, ops.update):
        with pytest.raises(ValueError, match=r"^theta: expected tensors on one device, got cpu"):
            operator(*data, *net(policy))
    with pytest.raises(ValueError, match=r"^theta: expected tensors on one device, got cpu"):
        ops.fvp(theta, batch.obs, theta, *net(policy), weights=batch.advantages.to("meta"))
    with pytest.raises(ValueError, match=r"^theta: expected tensors on one device, got cpu"):
        ops.solve(theta, batch.obs.to("meta"), theta, *net(policy))


def test_operators_leave_the_global_generator_alone():
    policy, batch, theta, v = problem(Case(hidden=(3, 4)))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    ops.fvp(theta, batch.obs, v, *net(policy))
    assert torch.equal(torch.rand(1), expected)
