"""What the tests of preconditioners share: the reference's operator on the rows of a case."""

from __future__ import annotations

from trpo_fast import FisherOperator


def operator(case, policy=None, **options):
    policy = case.policy() if policy is None else policy
    batch = case.batch(policy)
    return FisherOperator(
        policy,
        batch.obs,
        weights=batch.weights,
        action_mask=batch.action_mask,
        backend="reference",
        **options,
    )
