"""Several choices, each among a number of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from ..._base.arguments import check_counts, fail
from ..distributions import MultiCategoricalDistribution
from .base import Head, within

# A masked logit: exp() of it is exactly 0 in float32 and float64, yet 0 * it is 0, not NaN.
MASKED = -1e30


class MultiCategorical(Head):
    """Several independent choices, ``nvec[i]`` of them in factor i, from concatenated logits;
    metric diag(p) - p p' for each factor. Actions are [N, factors] integers.
    """

    kinds: ClassVar[tuple[str, ...]] = ("multicategorical",)
    distributions: ClassVar[tuple[str, ...]] = ("MultiCategoricalDistribution",)
    noise = "uniform"

    def __init__(self, nvec: Sequence[int]) -> None:
        super().__init__()
        self.kind = "multicategorical"
        self.nvec = check_counts("nvec", nvec, least_length=1)
        self.action_dim = len(self.nvec)
        self.outputs = self.parameters_per_row = sum(self.nvec)

    @classmethod
    def of_kind(cls, kind: str, outputs: int, nvec: tuple[int, ...]) -> MultiCategorical:
        if sum(nvec) != outputs:
            raise fail("nvec", f"numbers of choices that add up to {outputs}", list(nvec))
        return cls(nvec)

    @classmethod
    def for_space(cls, space: Any, std: str) -> MultiCategorical | None:
        from gymnasium.spaces import MultiDiscrete

        if not isinstance(space, MultiDiscrete):
            return None
        return cls([int(n) for n in space.nvec.reshape(-1)])

    @classmethod
    def of_distribution(cls, distribution: Distribution) -> tuple[Head, Tensor] | None:
        base = within(distribution)
        if not isinstance(base, MultiCategoricalDistribution):
            return None
        return cls(base.nvec), base.logits.clamp_min(MASKED)

    def mean_scale(self) -> float:
        return 1.0

    def _parts(self, params: Tensor) -> tuple[Tensor, ...]:
        return params.split(list(self.nvec), dim=-1)

    def _log_softmax(self, params: Tensor) -> Tensor:
        return torch.cat([F.log_softmax(part, dim=-1) for part in self._parts(params)], dim=-1)

    def _factors(self, actions: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Each factor's choices [N] and their number, which is never a tensor: its value would be
        copied from the host, and no CUDA graph captures that.
        """
        return zip(actions.reshape(-1, len(self.nvec)).unbind(-1), self.nvec, strict=True)

    def _chosen(self, actions: Tensor) -> Tensor:
        """Columns of the chosen logits [N, factors]; a choice out of range counts as the nearest,
        so that it reads no other memory before ``unusable`` is looked at.
        """
        columns, first = [], 0
        for choices, n in self._factors(actions):
            columns.append(choices.long().clamp(0, n - 1) + first)
            first += n
        return torch.stack(columns, dim=-1)

    @property
    def expected_actions(self) -> str:
        if len(self.nvec) == 1:
            return f"choices from 0 to {self.nvec[0] - 1}"
        return f"choices from 0 on, in each column below that of {list(self.nvec)}"

    def unusable(self, actions: Tensor) -> Tensor:
        beyond = [(choices < 0) | (choices >= n) for choices, n in self._factors(actions)]
        return torch.stack(beyond, dim=-1).view_as(actions)

    def without_choice(self, mask: Tensor) -> Tensor:
        return ~torch.stack([part.any(-1) for part in self._parts(mask)]).all(0)

    def forbidden(self, actions: Tensor, mask: Tensor) -> Tensor:
        return ~mask.gather(-1, self._chosen(actions))

    @property
    def discrete(self) -> bool:
        return True

    def uniform_params(self, params: Tensor) -> Tensor:
        return torch.where(params > MASKED, 0.0, MASKED)

    def distribution_params(
        self, z: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return z if mask is None else torch.where(mask, z, MASKED)

    def distribution(self, params: Tensor) -> Distribution:
        return MultiCategoricalDistribution(params, self.nvec)

    def metric(self, params: Tensor, tangent: Tensor) -> Tensor:
        probs = self._log_softmax(params).exp()
        rows = [p * t for p, t in zip(self._parts(probs), self._parts(tangent), strict=True)]
        return torch.cat(
            [
                pt - p * pt.sum(-1, keepdim=True)
                for p, pt in zip(self._parts(probs), rows, strict=True)
            ],
            dim=-1,
        )

    def metric_root(self, params: Tensor, signs: Tensor) -> Tensor:
        probs = self._log_softmax(params).exp()
        rows = [
            p.sqrt() * s for p, s in zip(self._parts(probs), self._parts(signs), strict=True)
        ]  # S = diag(sqrt p) - p sqrt(p)'
        return torch.cat(
            [
                ps - p * (p.sqrt() * s).sum(-1, keepdim=True)
                for p, ps, s in zip(self._parts(probs), rows, self._parts(signs), strict=True)
            ],
            dim=-1,
        )

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        log_old, log_new = self._log_softmax(old), self._log_softmax(new)
        return (log_old.exp() * (log_old - log_new)).sum(-1)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        return self._log_softmax(params).gather(-1, self._chosen(actions)).sum(-1)

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        probs = self._log_softmax(params).exp()
        chosen = torch.zeros_like(probs).scatter_(-1, self._chosen(actions), 1.0)
        return chosen - probs

    def entropy(self, params: Tensor) -> Tensor:
        log_probs = self._log_softmax(params)
        return -(log_probs.exp() * log_probs).sum(-1)

    def choose(self, params: Tensor, noise: Tensor) -> Tensor:
        gumbel = -(-noise.clamp_min(torch.finfo(params.dtype).tiny).log()).log()
        return self.mode(params + gumbel)

    def mode(self, params: Tensor) -> Tensor:
        return torch.stack([part.argmax(-1) for part in self._parts(params)], dim=-1)
