"""The report of an update that is composed from a backend's stages: it puts the step in place if
nothing speaks against it, else it leaves every bit of the parameters as it was and has the reason.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.operator import Operator
from ..core.problem import REASONS, STATS
from ..core.surrogate import Measures


class Report:
    """Statistics of an update composed from stages; writes theta once a proposal is accepted."""

    def __init__(self, operator: Operator, g: Tensor, before: Measures) -> None:
        self.operator, self.g, self.before = operator, g, before
        self.after = before
        zero = torch.zeros((), dtype=torch.float64, device=g.device)
        self.values = {name: zero for name in STATS}
        self.values["gradient_norm"] = g.double().norm()
        reason = torch.where((g == 0).all(), REASONS.index("zero_gradient"), 0)
        reason = torch.where(torch.isfinite(g).all(), reason, REASONS.index("non_finite"))
        self.reason = torch.where(operator.bad_values(), REASONS.index("bad_values"), reason)

    def fail(self, reason: str, where: Tensor) -> None:
        """Record a reason unless a worse one stands."""
        self.reason = torch.where((self.reason == 0) & where, REASONS.index(reason), self.reason)

    def propose(self, theta: Tensor, step_size: float | Tensor) -> None:
        """Take theta if nothing has failed and the policy it gives is finite."""
        after = self.operator.evaluate(theta)
        finite = (
            torch.isfinite(theta).all() & torch.isfinite(after.kl) & torch.isfinite(after.surrogate)
        )
        self.fail("non_finite", ~finite)
        self.write(theta, step_size)

    def write(self, theta: Tensor, step_size: float | Tensor) -> None:
        """Write theta to the policy if nothing has failed, and measure what the policy is then."""
        accepted = self.reason == 0
        theta = torch.where(accepted, theta, self.operator.theta)
        self.after = self.operator.evaluate(theta)
        self.operator.raise_failure()
        self.operator.problem.theta.copy_(theta)
        if not isinstance(step_size, Tensor):  # filled on the device: a copy to it would wait
            step_size = torch.full_like(self.values["gradient_norm"], step_size)
        self.values["step_size"] = torch.where(accepted, step_size.double(), 0.0)

    def stats(self) -> Tensor:
        """Every number of STATS, [len(STATS)] float64."""
        values = dict(self.values)
        values["reason"] = self.reason
        values["kl"], values["max_state_kl"] = self.after.kl, self.after.max_kl
        values["surrogate_before"] = self.before.surrogate
        values["surrogate_after"] = torch.where(  # equal bits where nothing moved
            self.reason == 0, self.after.surrogate, self.before.surrogate
        )
        values["entropy"] = self.after.entropy
        return torch.stack([values[name].double() for name in STATS])
