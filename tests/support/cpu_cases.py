"""What the tests of the CPU core share: shapes that stress its tiles, every instruction set, and
the float64 and float32 references to compare with.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from cases import Case, every_shape, few, weighted

from trpo_fast import flat_params
from trpo_fast._base import extension
from trpo_fast.backends.cpu import CpuOperator
from trpo_fast.backends.registry import resolve
from trpo_fast.core import reference
from trpo_fast.core.batch import Batch
from trpo_fast.core.operator import Operator
from trpo_fast.core.problem import Problem
from trpo_fast.policy.net import MLPPolicy
from trpo_fast.updates.problems import make_problem

LEVELS = ("base", "avx2", "avx512", "amx")


def instruction_sets() -> list[str]:
    """Those this CPU has; amx shares the float32 kernels of avx512."""
    native = extension.module()
    if native is None:
        return []
    return list(LEVELS[: min(LEVELS.index(native.detected_isa()), 2) + 1])


needs_native = pytest.mark.skipif(extension.module() is None, reason=extension.why_missing() or "-")
every_isa = pytest.mark.parametrize("isa", instruction_sets())


def wide_shapes() -> list[Case]:
    """Widths and rows around the edges of vectors, tiles, panels, passes and blocks."""
    heads = ("gaussian", "categorical", "gaussian_state", "multicategorical", "bernoulli", "beta")
    hidden = ((17,), (64, 64), (96, 5), (256, 256), (300, 33), (64, 64, 17, 5), (16, 16, 16))
    rows = (1, 7, 12, 33, 129, 311)
    return [
        Case(
            heads[(i + j) % len(heads)],
            shape,
            ("tanh", "silu", "relu", "gelu", "elu")[(i + 2 * j) % 5],
            n,
            obs_dim=(11, 17, 1, 348, 60)[(i + j) % 5],
            weights=n > 1 and j % 2 == 1,
            seed=i,
        )
        for i, shape in enumerate(hidden)
        for j, n in enumerate(rows[i % 2 :: 2])
    ]


def all_shapes() -> list[Case]:
    return every_shape() + wide_shapes()


def update_case(head: str) -> Case:
    """The weighted case of a head with rows and layers enough for whole solves and updates."""
    return replace(weighted(head), rows=200, hidden=(32, 16))


def update_cases() -> list[Case]:
    return [update_case(case.head) for case in few()]


def single(case: Case) -> tuple[MLPPolicy, Batch]:
    """The case in float32."""
    case = replace(case, dtype=torch.float32)
    policy = case.policy()
    return policy, case.batch(policy)


def operator_of(
    backend: str, policy: MLPPolicy, batch: Batch, damping: float = 0.1, **options
) -> Operator:
    problem: Problem = make_problem(
        policy, batch, theta=flat_params(policy), damping=damping, **options
    )
    return resolve(backend, problem).operator(problem)


def native(policy: MLPPolicy, batch: Batch, **options) -> CpuOperator:
    made = operator_of("cpu", policy, batch, **options)
    assert isinstance(made, CpuOperator)
    return made


def activations(policy: MLPPolicy, batch: Batch, dtype: torch.dtype) -> reference.Activations:
    """The reference's forward of the same float32 numbers in `dtype`."""
    theta = flat_params(policy).detach().to(dtype)
    return reference.forward(theta, policy.spec, policy.head, batch.obs.to(dtype))


def in_double(policy: MLPPolicy, batch: Batch) -> tuple[MLPPolicy, Batch]:
    """The same numbers in float64."""
    names = ("obs", "actions", "advantages", "log_probs", "weights", "old_params")
    values = {name: getattr(batch, name) for name in names}
    double = {
        name: value.double()
        for name, value in values.items()
        if value is not None and value.is_floating_point()
    }
    return copy.deepcopy(policy).double(), replace(batch, **double)
