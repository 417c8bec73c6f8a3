"""Digests of what the cores compute, a line each: run it on two commits and compare the lines.

    python benchmarks/bits.py > before.txt     (TRPO_FAST_ISA=avx2, TRPO_FAST_EMULATE=1 as wanted)

Equal lines mean equal bits. Inputs come from NumPy's generator, not from torch's.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import torch

import trpo_fast
from trpo_fast import Batch, FisherOperator, MLPPolicy

HEADS = {
    "gaussian": lambda: trpo_fast.Gaussian(3),
    "gaussian-state": lambda: trpo_fast.Gaussian(2, "state"),
    "squashed": lambda: trpo_fast.SquashedGaussian(2),
    "categorical": lambda: trpo_fast.Categorical(5),
    "multi": lambda: trpo_fast.MultiCategorical([3, 4]),
    "bernoulli": lambda: trpo_fast.Bernoulli(3),
}
NETS = (((), "identity"), ((64, 64), "tanh"), ((33,), "silu"), ((16, 8, 5), "elu"), ((70,), "gelu"))
UPDATES = {
    "trpo": lambda policy, batch, **o: trpo_fast.trpo_update(policy, batch, **o),
    "npg": lambda policy, batch, **o: trpo_fast.npg_update(policy, batch, **o),
    "pg": lambda policy, batch, **o: trpo_fast.pg_update(policy, batch, learning_rate=0.1, **o),
    "kl-penalty": lambda policy, batch, **o: trpo_fast.kl_penalty_update(
        policy, batch, trpo_fast.Penalty(1.0), backtrack_ratio=0.5, **o
    ),
}


def digest(*values: Any) -> str:
    """Of tensors and numbers, by their bytes."""
    found = hashlib.sha256()
    for value in values:
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.float64(value)
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def problem(kind: str, hidden: tuple[int, ...], activation: str, rows: int) -> tuple[Any, Any, Any]:
    """A policy, a batch of weighted rows, and a vector [P]."""
    random = np.random.default_rng([len(hidden), rows, sum(kind.encode())])
    torch.manual_seed(0)
    policy = MLPPolicy(7, HEADS[kind](), hidden, activation)
    flat = trpo_fast.flat_params(policy)
    flat.copy_(torch.from_numpy(random.normal(0.0, 0.3, flat.numel()).astype(np.float32)))
    obs = torch.from_numpy(random.normal(size=(rows, 7)).astype(np.float32))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        distribution = policy(obs)
        actions = distribution.sample()
        base = getattr(distribution, "base_dist", None)
        if kind == "squashed":
            actions = base.sample()
    scored = base if kind == "squashed" else distribution
    log_probs = scored.log_prob(actions).detach()
    advantages = torch.from_numpy(random.normal(size=rows).astype(np.float32))
    weights = torch.from_numpy(random.integers(0, 3, rows).astype(np.float32))
    weights[0] = 1.0
    vector = torch.from_numpy(random.normal(size=flat.numel()).astype(np.float32))
    return policy, Batch(obs, actions, advantages, log_probs, weights), vector


def lines() -> Any:
    backends = [name for name in ("cpu", "cuda") if trpo_fast.backends()[name] == "ok"]
    for backend, kind, (hidden, activation) in itertools.product(backends, HEADS, NETS):
        for rows in (1, 33, 700):
            name = f"{backend} {kind} {hidden} {activation} {rows}"
            policy, batch, vector = problem(kind, hidden, activation, rows)
            operator = FisherOperator(
                policy, batch.obs, damping=0.1, weights=batch.weights, backend=backend
            )
            yield f"{name} fvp", digest(operator @ vector)
            solution = operator.solve(vector, iterations=5)
            yield f"{name} solve", digest(solution.x, solution.residual_norm)
            for rule, update in UPDATES.items():
                policy, batch, _ = problem(kind, hidden, activation, rows)
                info = update(policy, batch, backend=backend)
                flat = trpo_fast.flat_params(policy)
                yield f"{name} {rule}", digest(flat, info.kl, info.surrogate_after)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, value in lines():
        print(f"{value}  {name}")
