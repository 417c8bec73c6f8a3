"""What stands in for a head where a module's distribution has none: enough for
``fisher="empirical"``, which needs no more of a distribution than the log-probability of the
actions that were taken.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from ..distributions import without_validation
from .registered import HeadOfDistribution, no_kl, rows_of, seeded, summed


class TakenActions(HeadOfDistribution):
    """params = (log pi(a | s), KL(call || pi), KL(pi || call), entropy), D = 4, call being the
    policy at the call of an update; the empirical Fisher information is that of the first column.
    """

    def __init__(self, distribution: Distribution) -> None:
        rows_of(distribution)
        super().__init__(distribution)
        self.kind = type(distribution).__name__
        self.outputs = self.parameters_per_row = 4
        self.found = without_validation(distribution)
        self.has_kl = True

    def measured(self, call: Distribution, actions: Tensor) -> Tensor:
        """The parameters [N, 4] of the distribution for these actions [N, ...]."""
        taken = summed(self.found.log_prob(actions))
        try:
            forward = summed(kl_divergence(call, self.found))
            reverse = summed(kl_divergence(self.found, call))
        except NotImplementedError:
            self.has_kl = False
            forward = reverse = torch.zeros_like(taken)
        with torch.no_grad():
            try:
                entropy = summed(self.found.entropy())
            except NotImplementedError:
                entropy = torch.full_like(taken, float("nan"))
        return torch.stack([taken, forward, reverse, entropy], dim=-1)

    def probed(self) -> Tensor:
        """As ``measured``, for actions of its own and no KL."""
        with seeded(0, torch.empty(0)):
            actions = self.found.sample()
        return summed(self.found.log_prob(actions)).unsqueeze(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        if not self.has_kl:
            raise no_kl(self.found)
        return new[..., 1] + old[..., 2]  # one of the two is the policy of the call

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        return params[..., 0]

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        first = torch.zeros_like(params)
        first[..., 0].fill_(1.0)
        return first

    def entropy(self, params: Tensor) -> Tensor:
        return params[..., 3]
