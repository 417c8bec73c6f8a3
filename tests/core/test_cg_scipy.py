"""CG of every backend on the Fisher matrix of every head, iterate by iterate against SciPy's on the
dense matrix.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import few, random_vector
from exactness import relative_error

from trpo_fast import BackendUnavailable, FisherOperator
from trpo_fast.backends.registry import registry

linalg = pytest.importorskip("scipy.sparse.linalg")
ITERATIONS = 8


def fisher(case, backend):
    """The operator in float64, or in float32 where the backend has nothing else."""
    for dtype in (torch.float64, torch.float32):
        policy = replace(case, dtype=dtype).policy()
        batch = replace(case, dtype=dtype).batch(policy)
        rows = {"weights": batch.weights, "action_mask": batch.action_mask}
        try:
            return policy, FisherOperator(policy, batch.obs, backend=backend, **rows)
        except BackendUnavailable as error:
            reason = str(error)
    pytest.skip(reason)


@pytest.mark.parametrize("backend", registry())
@pytest.mark.parametrize("case", few(), ids=str)
def test_every_iterate(case, backend):
    policy, F = fisher(case, backend)
    g, iterates = random_vector(policy), []
    linalg.cg(
        F.dense().numpy(),
        g.double().numpy(),
        rtol=0.0,
        maxiter=ITERATIONS,
        callback=lambda x: iterates.append(torch.from_numpy(x.copy())),
    )
    tolerance = 1e-10 if g.dtype == torch.float64 else 1e-4
    for k, theirs in enumerate(iterates, start=1):
        assert relative_error(F.solve(g, iterations=k).x, theirs) < tolerance, k
    assert len(iterates) == ITERATIONS
