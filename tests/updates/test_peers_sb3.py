"""Against sb3-contrib's own TRPO.train(), in float64 and in its conventions: the same policy and
rollout give the same search direction, step size, backtracks and parameters.

Its conventions: KL(new || old), averaged over rows and, except for MultiDiscrete, over action
dimensions; strict inequalities; CG stopped at r'r < 1e-10. Its random start of CG is set to zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

sb3_contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")

from stable_baselines3.common.logger import configure  # noqa: E402

from trpo_fast import Batch, FisherOperator, MLPPolicy, flat_params, trpo_update  # noqa: E402
from trpo_fast.updates.natural import npg_update  # noqa: E402

spaces = gymnasium.spaces
SPACES = {
    "Box": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "MultiBinary": spaces.MultiBinary(3),
}
OBS = spaces.Box(-10.0, 10.0, (5,), np.float32)
ROWS = 96
# (max_kl, damping): accepted at once, and after backtracking.
STEPS = ((0.01, 0.1), (1.0, 1e-3))


@pytest.fixture
def exact_sb3(monkeypatch):
    """Their CG from zero, observations left in float64; every search direction is recorded."""
    found = []
    solver = sb3_contrib.trpo.trpo.conjugate_gradient_solver

    def recording(product, g, **options):
        found.append((g.clone(), solver(product, g, **options)))
        return found[-1][1]

    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr("sb3_contrib.trpo.trpo.conjugate_gradient_solver", recording)
    cast = "stable_baselines3.common.policies.preprocess_obs"
    monkeypatch.setattr(cast, lambda obs, *_, **__: obs)
    return found


def make_sb3(space, max_kl, damping, seed):
    class Spaces(gymnasium.Env):
        observation_space, action_space = OBS, space

    torch.manual_seed(seed)
    trpo = sb3_contrib.TRPO(
        "MlpPolicy",
        Spaces(),
        n_steps=ROWS,
        batch_size=ROWS,
        n_critic_updates=1,
        target_kl=max_kl,
        cg_damping=damping,
        policy_kwargs={"net_arch": {"pi": [9, 6], "vf": [4]}},
        device="cpu",
    )
    trpo.set_logger(configure(None, []))
    trpo._current_progress_remaining = 1.0
    trpo.policy.double()
    with torch.no_grad():  # away from the nearly uniform policy of their initialisation
        trpo.policy.action_net.weight.mul_(60.0)
    return trpo


def actor_tensors(policy):
    """Their actor's tensors in our order."""
    linears = [m for m in policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    tensors = [p for m in (*linears, policy.action_net) for p in (m.weight, m.bias)]
    return [*tensors, policy.log_std] if hasattr(policy, "log_std") else tensors


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def in_our_order(vector, policy):
    """A vector over their parameters, in the order of ``named_parameters`` without the critic's."""
    theirs = [p for name, p in policy.named_parameters() if "value" not in name]
    parts = dict(zip(map(id, theirs), vector.split([p.numel() for p in theirs]), strict=True))
    return torch.cat([parts[id(p)] for p in actor_tensors(policy)])


def make_ours(trpo, space):
    policy = MLPPolicy.for_spaces(OBS, space, (9, 6), dtype=torch.float64)
    flat_params(policy).copy_(flat(actor_tensors(trpo.policy)))
    return policy


def rollout(policy, seed):
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        params = policy.distribution_params(obs)
        actions = policy.head.sample(params, generator)
        log_probs = policy.head.log_prob(params, actions)
    advantages = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    normalised = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return Batch(obs, actions, normalised, log_probs)


def fill(buffer, batch):
    buffer.reset()
    shaped = {"observations": batch.obs, "actions": batch.actions.double()}
    for name, value in shaped.items():
        setattr(buffer, name, value.numpy().reshape(ROWS, 1, -1))
    buffer.log_probs = batch.log_probs.numpy().reshape(ROWS, 1)
    buffer.advantages = batch.advantages.numpy().reshape(ROWS, 1)
    for name in ("values", "returns"):
        setattr(buffer, name, np.zeros((ROWS, 1)))
    buffer.pos, buffer.full = ROWS, True


def relative(a, b):
    return float((a - b).norm() / b.norm())


@dataclass
class Theirs:
    """What one train() did, in our order, and our policy and batch from before it."""

    policy: MLPPolicy
    batch: Batch
    g: torch.Tensor
    x: torch.Tensor
    moved: torch.Tensor
    kl: float

    @property
    def tol(self):
        """Their absolute r'r < 1e-10 as a relative tolerance."""
        return 1e-5 / float(self.g.norm())


def train_theirs(space, max_kl, damping, seed, found):
    trpo = make_sb3(space, max_kl, damping, seed)
    policy = make_ours(trpo, space)
    batch = rollout(policy, seed + 1)
    fill(trpo.rollout_buffer, batch)
    trpo.train()
    ((g, x),) = [[in_our_order(v, trpo.policy) for v in pair] for pair in found]
    moved = flat(actor_tensors(trpo.policy)) - flat_params(policy)
    kl = trpo.logger.name_to_value["train/kl_divergence_loss"]
    return Theirs(policy, batch, g, x, moved, kl)


@pytest.mark.parametrize("backend", ["reference", "autograd"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("space", SPACES)
def test_update_equals_theirs(space, step, backend, exact_sb3):
    max_kl, damping = step
    theirs = train_theirs(SPACES[space], max_kl, damping, 3, exact_sb3)
    policy, batch = theirs.policy, theirs.batch
    start = flat_params(policy).clone()
    options = {"damping": damping, "kl_reduction": "mean", "backend": backend}
    solution = FisherOperator(policy, batch.obs, **options).solve(theirs.g, 15, theirs.tol)
    assert relative(solution.x, theirs.x) < 1e-6
    steps = {"max_kl": max_kl, "cg_iterations": 15, "cg_tol": theirs.tol}
    info = trpo_update(policy, batch, kl_direction="reverse", **steps, **options)
    print(f"{space} {max_kl}: {info.backtracks} backtracks, KL {info.kl:.4f}")
    assert info.accepted and relative(theirs.moved, info.step_size * theirs.x) < 1e-6
    assert relative(flat_params(policy) - start, theirs.moved) < 1e-6
    assert info.kl == pytest.approx(theirs.kl, rel=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_full_step_equals_theirs(space, exact_sb3):
    """sqrt(2 max_kl / x'Ax), theirs with one product more than ours."""
    theirs = train_theirs(SPACES[space], 1e-4, 0.1, 5, exact_sb3)
    options = {"max_kl": 1e-4, "cg_iterations": 15, "cg_tol": theirs.tol, "kl_reduction": "mean"}
    info = npg_update(theirs.policy, theirs.batch, **options)
    size = float(theirs.moved @ theirs.x / (theirs.x @ theirs.x))
    backtracks = round(np.log(size / info.step_size) / np.log(0.8))
    assert size / 0.8**backtracks == pytest.approx(info.step_size, rel=1e-6)
