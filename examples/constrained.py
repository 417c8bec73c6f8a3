"""Constrained policy optimisation (Achiam et al., 2017): drive as fast as a limit on the expected
cost, the steps above the speed limit, allows. A loop of its own around ``NaturalGradient``.

    python examples/constrained.py
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from trpo_fast import Directions, NaturalGradient, StepInfo

STEPS = 30  # of an episode
SPEED_LIMIT = 1.0
COST_LIMIT = 3.0  # of the 30 steps may be above the speed limit, on average
AIM = 0.9  # share of the limit that updates aim at: what they see of the cost is an estimate


class Driver(nn.Module):
    """How hard to accelerate, given speed and time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
        self.log_std = nn.Parameter(torch.full((1,), -0.5))

    def forward(self, obs: Tensor) -> Distribution:
        mean = self.net(obs)
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1)


class Rollout(NamedTuple):
    """What E cars did in an episode: rows [E * STEPS], rewards and costs [STEPS, E]."""

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    costs: Tensor


@torch.no_grad()
def drive(driver: Driver, cars: int) -> Rollout:
    """One episode of every car: speeds decay, the reward is the distance covered."""
    speed, rows, rewards, costs = torch.zeros(cars), [], [], []
    for t in range(STEPS):
        obs = torch.stack([speed, torch.full_like(speed, t / STEPS)], dim=-1)
        pi = driver(obs)
        action = pi.sample()
        rows.append((obs, action, pi.log_prob(action)))
        speed = 0.9 * speed + 0.3 * action[:, 0].clamp(-1.0, 1.0)
        rewards.append(speed)
        costs.append((speed > SPEED_LIMIT).float())
    obs, actions, log_probs = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return Rollout(obs, actions, log_probs, torch.stack(rewards), torch.stack(costs))


def advantages(rewards: Tensor) -> Tensor:
    """What is still to come [E * STEPS] beyond what other cars get from the same time on."""
    to_come = rewards.flip(0).cumsum(0).flip(0)
    return (to_come - to_come.mean(1, keepdim=True)).flatten()


def cpo_step(found: Directions, excess: float, max_kl: float) -> Tensor:
    """The x [P] that minimises g'x where excess + b'x <= 0 and x'Hx / 2 <= max_kl, for the
    gradients g of the loss and b of the cost.

    With q = g'H^-1 g, r = g'H^-1 b and s = b'H^-1 b: as without a constraint, if that step keeps
    it; else the shortest way to excess + b'x = 0, and what is left of the trust region within that
    plane; and if the plane is out of reach, the step that lowers the cost most.
    """
    (q, r), (_, s) = found.products.tolist()
    along_loss, along_cost = found.x.unbind(-1)
    free = -math.sqrt(2.0 * max_kl / q) * along_loss
    if excess + float(found.gradients[:, 1] @ free) <= 0.0:
        return free
    left = 2.0 * max_kl - excess**2 / s
    if left <= 0.0:
        return -math.sqrt(2.0 * max_kl / s) * along_cost
    within = along_loss - r / s * along_cost
    return -excess / s * along_cost - math.sqrt(left / (q - r**2 / s)) * within


def update(optimizer: NaturalGradient, seen: Rollout, cost_limit: float) -> StepInfo:
    """One update of CPO: both systems in one solve, and a line search on loss and cost."""
    gains, risks = advantages(seen.rewards), advantages(seen.costs)
    excess = float(seen.costs.sum(0).mean()) - AIM * cost_limit

    def ratio(pi: Distribution) -> Tensor:
        return (pi.log_prob(seen.actions) - seen.log_probs).exp()

    def loss(pi: Distribution) -> Tensor:
        return -(ratio(pi) * gains).mean()

    def cost(pi: Distribution) -> Tensor:
        return excess + STEPS * (ratio(pi) * risks).mean()

    found = optimizer.solve([loss, cost], seen.obs)
    step = cpo_step(found, excess, optimizer.param_groups[0]["max_kl"])

    def accept(new: Tensor) -> bool:
        lower = bool(new[0] < found.losses[0])
        return bool(new[1] <= max(excess, 0.0)) and (lower or excess > 0.0)

    return optimizer.search(step, [loss, cost], accept, seen.obs)


def train(updates: int, cars: int = 256, cost_limit: float = COST_LIMIT) -> Driver:
    """A driver after so many updates, with what each did on a line."""
    driver = Driver()
    optimizer = NaturalGradient(driver, max_kl=0.01, damping=0.01)
    for i in range(updates):
        seen = drive(driver, cars)
        info = update(optimizer, seen, cost_limit)
        distance, cost = (float(x.sum(0).mean()) for x in (seen.rewards, seen.costs))
        print(
            f"{i:3d}  distance {distance:6.2f}  cost {cost:5.2f}  kl {info.kl:.4f}  {info.reason}"
        )
    return driver


def main() -> None:
    torch.manual_seed(0)
    seen = drive(train(60), 2048)
    print(f"steps above the limit: {float(seen.costs.sum(0).mean()):.2f} of {COST_LIMIT:g} allowed")


if __name__ == "__main__":
    main()
