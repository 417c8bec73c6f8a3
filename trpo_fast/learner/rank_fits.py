"""A critic's fit to rows that lie on several processes: losses, gradients and the targets' moments
are sums over ranks, a minibatch is made of a part of every rank's rows, and the critic is the same
on all ranks, bit by bit.

An epoch has as many steps as one process with all rows would take. Each rank draws its own
permutation and cuts it into that many parts of nearly the same length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._base.ranks import Ranks, Together, digest, digest_of
from .._base.threads import OneThread
from ..backends.support import choose
from ..core import checks
from ..policy.flat import flat_params, mark_written
from .fit_backends import SUPPORTS, adam, make_fit
from .fits import AdamState, Fit, Targets, curvature_rows, fit_gauss_newton
from .fits_reference import adam_step
from .input_checks import check_critic_batch
from .undo import finite_or_undone

# What of a critic decides how it is fitted.
_SETTINGS = (
    "method", "learning_rate", "epochs", "minibatch", "steps", "cg_iterations", "damping",
    "fraction", "preconditioner", "adam_steps", "fits",
)  # fmt: skip


def _weight(targets: Targets) -> float:
    weights = targets.weights
    return float(len(targets.values)) if weights is None else float(weights.double().sum())


class RankFit:
    """A ``Fit`` to the rows of all ranks; ``make`` gives one to some of this rank's."""

    def __init__(
        self,
        together: Together,
        net: Any,
        targets: Targets,
        make: Callable[[Targets], Fit],
        *,
        rows: int,
        total: float,
    ) -> None:
        self._together, self._net, self._targets, self._make = together, net, targets, make
        self._rows, self._part = rows, _weight(targets) / total

    def loss(self) -> Tensor:
        zero = flat_params(self._net).new_zeros(())
        return self._together.sum(self._part, zero, lambda: self._make(self._targets).loss())

    def gradient(self) -> tuple[Tensor, Tensor]:
        both = self._sums(self._targets, self._part)
        return both[0], both[1:]

    def _sums(self, targets: Targets, part: float) -> Tensor:
        """The sum over ranks of so much of the loss and its gradient, [1 + P]."""
        theta = flat_params(self._net)

        def run() -> Tensor:
            loss, g = self._make(targets).gradient()
            return torch.cat((loss.to(g).view(1), g))

        return self._together.sum(part, theta.new_zeros(1 + theta.numel()), run)

    def steps(self, minibatch: int) -> int:
        """How many an epoch has."""
        return -(-self._rows // minibatch)

    def adam(self, state: AdamState, order: Tensor, minibatch: int, learning_rate: float) -> Tensor:
        theta, taken, loss = flat_params(self._net), state.steps, None
        for epoch in order:
            parts = [self._targets.rows(i) for i in epoch.tensor_split(self.steps(minibatch))]
            mine = torch.tensor([_weight(part) for part in parts], dtype=torch.float64)
            masses = self._together.ranks.sum(mine.to(theta.device)).tolist()
            loss = theta.new_zeros(())
            for part, weight, mass in zip(parts, mine.tolist(), masses, strict=True):
                taken += 1
                both = self._sums(part, weight / mass)
                adam_step(theta, state, both[1:], learning_rate, taken)
                mark_written(self._net)
                loss = loss + (mass / sum(masses)) * both[0]
        if state.taken is not None:
            state.taken.add_(taken - state.steps)
        assert loss is not None
        return loss


def fit_together(
    critic: Any,
    ranks: Ranks,
    rows: tuple[Any, Any, Any],
    generator: torch.Generator | None,
    *,
    sync: bool,
) -> tuple[Tensor, int | Tensor, str]:
    """Loss, steps and backend of ``Critic.fit`` with rows (obs, targets, weights) on several ranks;
    one may have none.
    """
    theta = critic.theta

    def make() -> tuple[str, Targets]:
        ranks.check_place(theta)
        chosen = choose(critic.backend, SUPPORTS, critic.net, critic.method, can="fit this critic")
        checked = check_critic_batch(critic.net, theta, *rows, values=sync, none=True)
        return chosen, Targets(*checked)

    settings = [getattr(critic, name) for name in _SETTINGS]
    (chosen, mine), table = ranks.together(
        make,
        lambda made: (
            len(made[1].values), _weight(made[1]), digest(theta), digest(critic.moments),
            digest_of(settings),
        ),
    )  # fmt: skip
    for at, what in ((2, "parameters"), (3, "moments of Adam"), (4, "settings")):
        ranks.check_same("critic", f"the same {what} on every rank", [row[at] for row in table])
    count, total = int(sum(row[0] for row in table)), sum(row[1] for row in table)
    if not total > 0.0:
        raise checks.fail("obs", "at least one row with a weight on one of the ranks", "none")

    def run() -> tuple[Tensor, int | Tensor]:
        together = Together(ranks)
        critic.renormalise(*_moments(ranks, mine, total))
        held = Targets(mine.obs, (mine.values - critic.mean) / critic.std, mine.weights)
        fit = RankFit(
            together,
            critic.net,
            held,
            lambda part: make_fit(chosen, critic.net, part, critic.method, capture=False),
            rows=count,
            total=total,
        )
        found = _run(critic, fit, held, generator, ranks)
        together.raise_failure()
        return found

    with OneThread():
        loss, steps = finite_or_undone(critic, critic.net, run, sync=sync)
    return loss, steps, chosen


def _moments(ranks: Ranks, targets: Targets, total: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation of all ranks' targets, 0-d."""
    values = targets.values.double()
    share = (torch.ones_like(values) if targets.weights is None else targets.weights) / total
    centre = ranks.sum((share * values).sum())
    spread = ranks.sum((share * (values - centre).square()).sum()).sqrt()
    return centre.to(targets.values), spread.to(targets.values)


def _run(
    critic: Any,
    fit: RankFit,
    targets: Targets,
    generator: torch.Generator | None,
    ranks: Ranks,
) -> tuple[Tensor, int | Tensor]:
    if critic.method == "gauss_newton":
        return fit_gauss_newton(
            fit,
            critic.net,
            targets,
            curvature_rows(targets.values, critic.steps, critic.fraction, generator),
            cg_iterations=critic.cg_iterations,
            damping=critic.damping,
            preconditioner=critic.preconditioner,
            backend=critic.backend,
            capture=False,
            group=ranks.group,
        )
    return adam(fit, critic, targets.obs, generator, fit.steps(critic.minibatch))
