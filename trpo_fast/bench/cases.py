"""The case table every suite shares, and the tensors of one case.

A case is a policy of a size people train and the rows of one update. Weights are drawn once from a
fixed seed, observations are standard normal (the user's are normalised), so every contender on
every machine multiplies the same numbers. Two cases are batches from the middle of training
(recorded/): how many products a solve needs shows on such alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from .._base.rows import one_tensor
from ..core.batch import Batch
from ..policy.flat import flat_params
from ..policy.heads import Categorical, Gaussian, Head
from ..policy.net import MLPPolicy
from . import recorded

DAMPING = 0.1
LOG_STD = -0.5


@dataclass(frozen=True)
class Case:
    """A policy's shape and its number of rows; on a CPU the rows are capped so that runs end."""

    name: str
    obs_dim: int
    hidden: tuple[int, ...]
    head: str  # "gaussian" or "categorical"
    actions: int
    full_rows: int
    cpu_rows: int
    recorded: bool = False

    def rows(self, device: str, cap: int | None = None) -> int:
        """How many rows to run on a device, at most ``cap``."""
        rows = self.cpu_rows if device == "cpu" else self.full_rows
        return rows if cap is None else min(rows, cap)

    @property
    def net(self) -> str:
        """Observations, hidden widths and actions, as in 11-64-64-3."""
        return "-".join(map(str, (self.obs_dim, *self.hidden, self.actions)))

    @property
    def _maps(self) -> list[int]:
        widths = (self.obs_dim, *self.hidden, self.actions)
        return [a * b for a, b in pairwise(widths)]

    def forward_flops(self, rows: int) -> int:
        """2 N sum(H_l H_{l-1})."""
        return 2 * rows * sum(self._maps)

    def fvp_flops(self, rows: int) -> int:
        """4 for a weight of the first map (V h, delta' h), 8 for every other (also W dh, W' delta).

        A product through cached activations; what a contender does beyond that is not useful work.
        """
        first, *rest = self._maps
        return rows * (4 * first + 8 * sum(rest))

    def gradient_flops(self, rows: int) -> int:
        """One pass back: delta' h for every map, W' delta for all but the first."""
        first, *rest = self._maps
        return rows * (2 * first + 4 * sum(rest))

    def solve_flops(self, rows: int, iterations: int) -> int:
        """Forward and ``iterations`` products."""
        return self.forward_flops(rows) + iterations * self.fvp_flops(rows)

    def update_flops(self, rows: int, iterations: int) -> int:
        """Forward, gradient, products, and the forward of one line-search candidate."""
        solve = self.solve_flops(rows, iterations)
        return solve + self.gradient_flops(rows) + self.forward_flops(rows)


_TABLE = (
    Case("tiny", 3, (8,), "gaussian", 2, 64, 64),
    Case("cartpole", 4, (64, 64), "categorical", 2, 2_048, 2_048),
    Case("C1", 11, (64, 64), "gaussian", 3, 2_048, 2_048),
    Case("C2", 17, (64, 64), "gaussian", 6, 25_000, 25_000),
    Case("C3", 348, (256, 256), "gaussian", 17, 50_000, 10_000),
    Case("C4", 60, (256, 128, 64), "gaussian", 8, 131_072, 32_768),
    Case("C5", 157, (512, 512, 256, 128), "gaussian", 20, 262_144, 8_192),
    Case("hopper", 11, (64, 64), "gaussian", 3, 2_048, 2_048, recorded=True),
    Case("halfcheetah", 17, (64, 64), "gaussian", 6, 8_192, 8_192, recorded=True),
)
CASES = {case.name: case for case in _TABLE}
CASE_NETS = ", ".join(f"{case.name} {case.net}" for case in _TABLE)
DEFAULT_CASES = ("cartpole", "C1", "C2", "C3", "C4")
RECORDED_CASES = tuple(case.name for case in _TABLE if case.recorded)


@dataclass(frozen=True)
class Workload:
    """The tensors of one case on one device."""

    case: Case
    policy: MLPPolicy
    batch: Batch  # actions drawn from the policy, normalised advantages
    g: Tensor  # [P] right-hand side of the solve
    damping: float = DAMPING

    @property
    def obs(self) -> Tensor:
        """Observations [N, O]."""
        return one_tensor(self.batch.obs)

    @property
    def rows(self) -> int:
        """N."""
        return len(self.batch)

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return self.g.numel()

    @cached_property
    def theta(self) -> Tensor:
        """The parameters [P] the case starts from; a copy, since updates move the policy's own."""
        return flat_params(self.policy).clone()

    def params(self) -> list[Tensor]:
        """W1 [H1, O], b1 [H1], ..., WL, bL, then log_std [A] for a Gaussian: detached copies."""
        return [p.detach().clone() for p in self.policy.parameters()]

    def double(self) -> Workload:
        """The same numbers in float64: what errors are measured against."""
        policy = _policy(self.case, self.theta.double())
        batch = self.batch
        assert batch.actions is not None and batch.advantages is not None
        assert batch.log_probs is not None
        actions = batch.actions.double() if self.case.head == "gaussian" else batch.actions
        copied = Batch(
            self.obs.double(), actions, batch.advantages.double(), batch.log_probs.double()
        )
        return Workload(self.case, policy, copied, self.g.double(), self.damping)


def _head(case: Case) -> Head:
    if case.head == "categorical":
        return Categorical(case.actions)
    return Gaussian(case.actions, initial_log_std=LOG_STD)


def _policy(case: Case, theta: Tensor) -> MLPPolicy:
    policy = MLPPolicy(
        case.obs_dim, _head(case), case.hidden, "tanh", dtype=theta.dtype, device=theta.device
    )
    flat_params(policy).copy_(theta)
    return policy


def _draw_theta(case: Case, generator: torch.Generator) -> Tensor:
    """Weights of variance 1 / fan-in (a hundredth of that in the last map), small biases, log_std
    -0.5.
    """
    parts, widths = [], (case.obs_dim, *case.hidden, case.actions)
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        scale = (0.1 if i == len(widths) - 2 else 1.0) / fan_in**0.5
        parts.append(scale * torch.randn(fan_out * fan_in, generator=generator))
        parts.append(0.1 * torch.randn(fan_out, generator=generator))
    if case.head == "gaussian":
        parts.append(torch.full((case.actions,), LOG_STD))
    return torch.cat(parts)


def make_workload(case: Case, device: str = "cpu", cap: int | None = None) -> Workload:
    """The tensors of a case in float32; the same numbers on every device."""
    if case.recorded:
        return _recorded(case, device, case.rows(device, cap))
    generator = torch.Generator().manual_seed(0)
    rows = case.rows(device, cap)
    theta = _draw_theta(case, generator)
    policy = _policy(case, theta.to(device))
    obs = torch.randn(rows, case.obs_dim, generator=generator).to(device)
    g = 0.01 * torch.randn(theta.numel(), generator=generator)
    advantages = torch.randn(rows, generator=generator)
    advantages = ((advantages - advantages.mean()) / advantages.std()).to(device)
    with torch.no_grad():
        params = policy.distribution_params(obs)
        noise = torch.rand(rows, 1, generator=generator).to(device)
        if case.head == "categorical":
            actions = (params.softmax(-1).cumsum(-1) < noise).sum(-1).clamp_max(case.actions - 1)
        else:
            normal = torch.randn(rows, case.actions, generator=generator).to(device)
            mean, log_std = params.chunk(2, dim=-1)
            actions = mean + log_std.exp() * normal
        log_probs = policy.head.log_prob(params, actions)
    return Workload(case, policy, Batch(obs, actions, advantages, log_probs), g.to(device))


def _recorded(case: Case, device: str, rows: int) -> Workload:
    """A batch from training, with the gradient that its update solves for."""
    held = {name: value.to(device) for name, value in recorded.read(case.name).items()}
    policy = _policy(case, held["theta"])
    obs, actions, advantages = (held[name][:rows] for name in ("obs", "actions", "advantages"))
    log_probs = policy.head.log_prob(policy.distribution_params(obs), actions)
    parts = torch.autograd.grad((log_probs * advantages).mean(), list(policy.parameters()))
    g = torch.cat([part.reshape(-1) for part in parts])
    return Workload(case, policy, Batch(obs, actions, advantages, log_probs.detach()), g)
