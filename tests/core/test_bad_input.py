"""Bad input to every public function: a ValueError "argument: expected ..., got ...", and the
policy keeps every bit.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backend_cases import AVAILABLE, setting
from cases import UPDATES, Case
from refusals import refuses

from trpo_fast import (
    Batch,
    Categorical,
    FisherOperator,
    Gaussian,
    MLPPolicy,
    MultiCategorical,
    distribution_params,
    flat_params,
    kl_penalty_update,
    trpo_update,
)
from trpo_fast.learner.critic import Critic

pytestmark = pytest.mark.attack

CHOOSING = Case("multicategorical", weights=True, masks=True, dtype=torch.float32)
MOVING = Case("gaussian", weights=True, dtype=torch.float32)


def fisher(policy, batch, **options):
    """A product, from the parts of the batch that a Fisher operator takes."""
    rows = {"weights": batch.weights, "action_mask": batch.action_mask}
    F = FisherOperator(policy, batch.obs, **rows, **options)
    return F @ flat_params(policy)


FUNCTIONS = {"FisherOperator": fisher, **UPDATES}


def sampled(case, policy):
    """The case's batch with everything that a batch may have."""
    return with_sampler(policy, case.batch(policy))


def with_sampler(policy, batch):
    old_params = distribution_params(policy, batch.obs, batch.action_mask)
    return replace(batch, old_params=old_params)


def spoiled(batch, name, fault):
    return replace(batch, **{name: fault(getattr(batch, name))})


# What can be wrong with any tensor of a batch, whatever it holds.
STRUCTURE = {
    "rank": lambda x: x.unsqueeze(-1),
    "length": lambda x: x[:-1],
    "width": lambda x: x[:, :-1],
    "dtype": lambda x: x.to(torch.float16),
    "device": lambda x: x.to("meta"),
    "type": lambda x: x.tolist(),
    "empty": lambda x: x[:0],
}
# obs says how many rows there are, so a short obs is another argument's error; the others have no
# width of their own or are named above.
PER_TENSOR = {
    "obs": ("rank", "width", "dtype", "device", "type", "empty"),
    "actions": ("rank", "length", "width", "dtype", "device", "type"),
    "advantages": ("rank", "length", "dtype", "device", "type"),
    "log_probs": ("rank", "length", "dtype", "device", "type"),
    "old_params": ("rank", "length", "width", "dtype", "device", "type"),
    "weights": ("rank", "length", "dtype", "device", "type"),
    "action_mask": ("rank", "length", "width", "dtype", "device", "type"),
}
ROWS_ONLY = ("obs", "weights", "action_mask")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", PER_TENSOR)
def test_structure_of_the_batch(name, function):
    if function == "FisherOperator" and name not in ROWS_ONLY:
        pytest.skip("a Fisher operator does not take it")
    for case in (CHOOSING,) if name == "action_mask" else (CHOOSING, MOVING):
        policy = case.policy()
        batch = sampled(case, policy)
        for fault in PER_TENSOR[name]:
            bad = spoiled(batch, name, STRUCTURE[fault])
            refuses(name, policy, lambda bad=bad, p=policy: FUNCTIONS[function](p, bad))


def put(value, index):
    def fault(x):
        x = x.clone()
        x[index] = value
        return x

    return fault


NAN, INF = float("nan"), float("inf")
VALUES = [
    *[("obs", MOVING, put(v, (3, 1))) for v in (NAN, INF, -INF)],
    *[("actions", MOVING, put(v, (3, 1))) for v in (NAN, INF)],
    *[("advantages", MOVING, put(v, 3)) for v in (NAN, -INF)],
    *[("log_probs", MOVING, put(v, 3)) for v in (NAN, INF)],
    *[("old_params", MOVING, put(v, (3, 1))) for v in (NAN, INF)],
    *[("weights", MOVING, put(v, 3)) for v in (NAN, INF, -1.0)],
    ("weights", MOVING, torch.zeros_like),
    ("action_mask", CHOOSING, put(False, 3)),
    ("action_mask", CHOOSING, put(False, (3, slice(2, 5)))),
    ("actions", CHOOSING, put(7, (3, 1))),
    ("actions", CHOOSING, put(-1, (3, 1))),
    ("actions", Case("categorical", dtype=torch.float32), put(4, 3)),
    ("actions", Case("bernoulli", dtype=torch.float32), put(0.5, (3, 1))),
]


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_of_the_batch(function, backend):
    for name, case, fault in VALUES:
        if function == "FisherOperator" and name not in ROWS_ONLY:
            continue
        policy, batch = setting(case, backend)
        bad = spoiled(with_sampler(policy, batch), name, fault)
        call = lambda p=policy, b=bad: FUNCTIONS[function](p, b, backend=backend)  # noqa: E731
        refuses(name, policy, call)


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("function", UPDATES)
def test_values_become_a_reason_without_sync(function, backend):
    for name, case, fault in VALUES:
        policy, batch = setting(case, backend)
        before = flat_params(policy).clone()
        bad = spoiled(with_sampler(policy, batch), name, fault)
        info = UPDATES[function](policy, bad, backend=backend, sync=False)
        assert info.reason in ("bad_values", "non_finite"), (name, info.reason)
        assert torch.equal(flat_params(policy), before), name


def test_zero_weight_rows_may_hold_anything():
    policy = MOVING.policy()
    batch = sampled(MOVING, policy)
    padding = batch.weights == 0
    bad = batch
    for name in ("obs", "actions", "advantages", "log_probs", "old_params"):
        bad = spoiled(bad, name, put(NAN, padding))
    good = trpo_update(MOVING.policy(), batch)
    assert trpo_update(policy, bad).stats.equal(good.stats) and good.accepted


ARGUMENTS = {
    "damping": (-0.1, NAN, INF, "0.1", True, 10**400),
    "max_kl": (0.0, -1.0, NAN, INF, "0.01", 10**5000),
    "cg_iterations": (0, -1, 1.5, True, 2**31, 10**5000, -(10**5000)),
    "cg_tol": (-1e-3, 1.0, NAN),
    "backtrack_ratio": (0.0, 1.0, NAN),
    "backtrack_steps": (0, 2.0, 2**31),
    "max_rows": (0, -1, 1.5, True, 2**31),
    "learning_rate": (0.0, -1.0, NAN),
    "max_grad_norm": (0.0, NAN),
    "adam_steps": (0, 1.5, 2**63),
    "inner": ("sgd", None),
    "kl_reduction": ("max", None),
    "kl_direction": ("backward",),
    "constraint": ("largest", None),
    "fisher": ("exact",),
    "precision": (32, None),
    "chunk_rows": (0, 1.5, 2**63),
    "backend": ("gpu",),
    "fvp_rows": (
        0,
        1000,
        2**64,
        True,
        torch.tensor([0, 99]),
        torch.tensor([-1, 3]),
        torch.tensor([3, 3]),
        torch.tensor([[1, 2]]),
        torch.tensor([1.0, 2.0]),
        torch.tensor([], dtype=torch.int64),
    ),
}
TAKES = {
    "FisherOperator": "damping kl_reduction fisher precision chunk_rows backend fvp_rows",
    "trpo_update": "damping max_kl cg_iterations cg_tol backtrack_ratio backtrack_steps "
    "kl_reduction kl_direction constraint fisher precision chunk_rows backend fvp_rows",
    "npg_update": "damping max_kl cg_iterations cg_tol learning_rate kl_reduction fvp_rows backend",
    "kl_penalty_update": "damping cg_iterations cg_tol backtrack_ratio backtrack_steps adam_steps "
    "learning_rate inner kl_reduction chunk_rows backend",
    "pg_update": "learning_rate max_grad_norm chunk_rows precision backend",
    "rat_update": "damping max_kl max_rows backtrack_ratio backtrack_steps kl_reduction "
    "kl_direction fisher precision chunk_rows backend fvp_rows",
}


@pytest.mark.parametrize("function", TAKES)
def test_options(function):
    policy = MOVING.policy()
    batch = MOVING.batch(policy)
    for name in TAKES[function].split():
        for value in ARGUMENTS[name]:
            options = {name: value}
            refuses(name, policy, lambda o=options: FUNCTIONS[function](policy, batch, **o))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_unknown_option(function):
    policy = MOVING.policy()
    batch = MOVING.batch(policy)
    with pytest.raises(TypeError, match="dampening"):
        FUNCTIONS[function](policy, batch, dampening=0.1)


@pytest.mark.parametrize("function", UPDATES)
def test_batch_and_policy(function):
    policy = MOVING.policy()
    batch = MOVING.batch(policy)
    update = UPDATES[function]
    for name in ("actions", "advantages"):
        bad = replace(batch, **{name: None})
        refuses(name, policy, lambda bad=bad: update(policy, bad))
    refuses("batch", policy, lambda: update(policy, {"obs": batch.obs}))
    refuses("group_size", policy, lambda: update(policy, replace(batch, group_size=2)))
    refuses("group_size", policy, lambda: update(policy, replace(batch, group_size=0)))
    refuses("group_size", policy, lambda: update(policy, replace(batch, group_size=2**70)))
    refuses("policy", policy, lambda: update(lambda obs: obs, batch))
    masked = replace(batch, action_mask=torch.ones(len(batch), 3, dtype=torch.bool))
    refuses("action_mask", policy, lambda: update(policy, masked))


VECTORS = {
    "rank": lambda v: v.reshape(1, -1, 1),
    "length": lambda v: v[:-1],
    "dtype": lambda v: v.double(),
    "device": lambda v: v.to("meta"),
    "type": lambda v: v.tolist(),
    "nan": put(NAN, 2),
    "infinity": put(INF, -1),
}


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("fault", VECTORS)
def test_vectors(fault, backend):
    policy, batch = setting(MOVING, backend)
    F = FisherOperator(policy, batch.obs, backend=backend)
    bad = VECTORS[fault](flat_params(policy).clone())
    refuses("v", policy, lambda: F @ bad)
    refuses("g", policy, lambda: F.solve(bad))
    refuses("iterations", policy, lambda: F.solve(flat_params(policy), iterations=0))
    refuses("iterations", policy, lambda: F.solve(flat_params(policy), iterations=2**31))
    refuses("tol", policy, lambda: F.solve(flat_params(policy), tol=1.0))


def test_penalty_of_another_type():
    policy = MOVING.policy()
    batch = MOVING.batch(policy)
    refuses("penalty", policy, lambda: kl_penalty_update(policy, batch, 1.0))


def test_empty_batch():
    policy = MOVING.policy()
    empty = Batch(*(torch.zeros(0, *shape) for shape in ((5,), (3,), (), ())))
    for function in FUNCTIONS.values():
        refuses("obs", policy, lambda f=function: f(policy, empty))


MAKERS = {
    "epochs": lambda n: Critic(5, epochs=n),
    "minibatch": lambda n: Critic(5, minibatch=n),
    "steps": lambda n: Critic(5, steps=n),
    "obs_dim": lambda n: MLPPolicy(n, Gaussian(1)),
    "hidden": lambda n: MLPPolicy(5, Gaussian(1), (n,)),
    "dim": Gaussian,
    "n": Categorical,
    "nvec": lambda n: MultiCategorical((2, n)),
}


@pytest.mark.parametrize("count", [2**31, 2**63, 10**5000], ids=["int", "int64", "digits"])
@pytest.mark.parametrize("name", MAKERS)
def test_counts_that_no_kernel_takes(name, count):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*2147483647, got .+"):
        MAKERS[name](count)
