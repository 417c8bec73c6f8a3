"""The head of a distribution of one's own, from what ``register_head`` was told of it.

Whatever is not given comes from the distribution: log-probability and entropy are its own, the KL
is torch's, the metric is the Hessian of the KL and the score the gradient of the log-probability,
both by autograd in the distribution parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from ..._base.arguments import fail
from ..._base.reads import unvalidated
from ..distributions import from_validation, without_validation
from .base import Head

Parts = Sequence[Tensor]
Formula = Callable[..., Any]


@dataclass(frozen=True)
class Formulas:
    """What was registered of one class of distributions; None where the default serves."""

    kind: type[Distribution]
    params: Callable[[Any], Parts]
    distribution: Formula
    kl: Formula | Literal["sampled"] | None
    log_prob: Formula | None
    entropy: Formula | None
    sample: Formula | None
    metric: Formula | None
    metric_root: Formula | None
    score: Formula | None
    samples: int


def rows_of(distribution: Distribution) -> int:
    """N, of a distribution over N rows."""
    if not distribution.batch_shape:
        got = f"{type(distribution).__name__} with batch_shape []"
        raise fail("policy", "a distribution over N rows, batch_shape [N, ...]", got)
    return distribution.batch_shape[0]


def is_discrete(distribution: Distribution) -> bool:
    """Whether its actions are counts or choices; False where it does not say."""
    try:
        support: Any = distribution.support
    except (NotImplementedError, AttributeError):
        return False
    return bool(getattr(support, "is_discrete", False))


def summed(value: Tensor, lead: int = 1) -> Tensor:
    """A value for every row, [..., N] from [..., N, ...], ``lead`` dimensions being kept."""
    return value.flatten(lead).sum(-1) if value.ndim > lead else value


def joined(parts: Parts, rows: int) -> Tensor:
    return torch.cat([part.reshape(rows, -1) for part in parts], dim=-1)


@contextmanager
def seeded(seed: int, like: Tensor) -> Iterator[None]:
    """torch's random numbers from this seed, and afterwards as if none had been drawn."""
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


class HeadOfDistribution(Head):
    """A head whose actions are those of a distribution over N rows."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self._action_shape = (*distribution.batch_shape[1:], *distribution.event_shape)
        self.action_dim = math.prod(self._action_shape)
        self._integers = is_discrete(distribution)

    @property
    def integer_actions(self) -> bool:  # type: ignore[override]
        """Whether bools and integers are taken as actions, too."""
        return self._integers

    @property
    def action_shape(self) -> tuple[int, ...]:
        return self._action_shape


class RegisteredHead(HeadOfDistribution):
    """The head of one class of distributions, from what was registered of it."""

    def __init__(
        self, formulas: Formulas, shapes: Sequence[torch.Size], distribution: Distribution
    ) -> None:
        super().__init__(distribution)
        self.kind = formulas.kind.__name__
        self._formulas, self._shapes = formulas, shapes
        self._sizes = [math.prod(shape) for shape in shapes]
        self.outputs = self.parameters_per_row = sum(self._sizes)
        self._slope: tuple[Tensor, Tensor, Tensor] | None = None

    def _split(self, params: Tensor) -> Parts:
        pairs = zip(params.split(self._sizes, dim=-1), self._shapes, strict=True)
        return [part.reshape(params.shape[0], *shape) for part, shape in pairs]

    def distribution(self, params: Tensor) -> Distribution:
        with unvalidated(params.device):
            made: Distribution = self._formulas.distribution(*self._split(params))
        if not isinstance(made, Distribution):
            raise fail("distribution", f"a function that returns a {self.kind}", type(made))
        return without_validation(made)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        formula = self._formulas.kl
        with nan_if_invalid(new) as result:
            if formula == "sampled":
                result.append(self._sampled_kl(old, new))
            else:
                first, second = self.distribution(old), self.distribution(new)
                result.append(summed(_kl(formula or kl_divergence, first, second)))
        return result[-1]

    def _sampled_kl(self, old: Tensor, new: Tensor) -> Tensor:
        actions = self._drawn(old)
        log_ratio = self._log_prob(new, actions, 2) - self._log_prob(old, actions, 2)
        return (log_ratio.expm1() - log_ratio).mean(0)

    @torch.no_grad()
    def _drawn(self, params: Tensor) -> Tensor:
        """Actions [samples, N, ...], the same for the same parameters."""
        with seeded(0, params):
            try:
                return self._sample(params.detach(), torch.Size([self._formulas.samples]))
            except RuntimeError as error:  # torch's samplers look where distributions do not
                if params.isfinite().all():
                    raise
                raise _NothingDrawn from error

    def _sample(self, params: Tensor, shape: torch.Size) -> Tensor:
        made, formula = self.distribution(params), self._formulas.sample
        drawn: Tensor = made.sample(shape) if formula is None else formula(made, shape)
        return drawn

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        with nan_if_invalid(params) as result:
            result.append(self._log_prob(params, actions, 1))
        return result[-1]

    def _log_prob(self, params: Tensor, actions: Tensor, lead: int) -> Tensor:
        made, formula = self.distribution(params), self._formulas.log_prob
        value = made.log_prob(actions) if formula is None else formula(made, actions)
        return summed(value, lead)

    def entropy(self, params: Tensor) -> Tensor:
        formula = self._formulas.entropy
        with nan_if_invalid(params) as result:
            made = self.distribution(params)
            try:
                result.append(summed(made.entropy() if formula is None else formula(made)))
            except NotImplementedError:
                if self._formulas.kl == "sampled":
                    result.append(-self._log_prob(params, self._drawn(params), 2).mean(0))
        return result[-1]

    def metric(self, params: Tensor, tangent: Tensor) -> Tensor:
        if tangent.ndim > 2:
            return torch.stack([self.metric(params, one) for one in tangent])
        if self._formulas.metric is not None:
            return self._linear(self._formulas.metric, params, tangent)
        if self._slope is None or self._slope[0] is not params:
            self._slope = (params, *self._kl_slope(params))
        _, leaf, slope = self._slope
        if not slope.requires_grad:
            return torch.zeros_like(tangent)
        (product,) = torch.autograd.grad(
            slope, leaf, tangent, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        return product

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _kl_slope(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters as a leaf, and the gradient of the KL there, with its graph."""
        old = params.detach().clone()
        leaf = old.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.kl(old, leaf).sum(), leaf, create_graph=True)
        return leaf, slope

    def metric_root(self, params: Tensor, signs: Tensor) -> Tensor:
        if self._formulas.metric_root is not None:
            return self._linear(self._formulas.metric_root, params, signs)
        each = torch.eye(params.shape[-1], dtype=params.dtype, device=params.device)
        columns = self.metric(params, each.unsqueeze(1).expand(-1, len(params), -1))
        matrix = columns.movedim(0, -1).double()
        sound = torch.where(matrix.isfinite(), matrix, 0.0)
        values, vectors = torch.linalg.eigh(0.5 * (sound + sound.mT))  # it may be singular
        turned = (vectors.mT @ signs.double().unsqueeze(-1)).squeeze(-1)
        scaled = values.clamp_min(0.0).sqrt() * turned
        return (vectors @ scaled.unsqueeze(-1)).squeeze(-1).to(params.dtype)

    def _linear(self, formula: Formula, params: Tensor, tangent: Tensor) -> Tensor:
        parts = formula(self.distribution(params), *self._split(tangent))
        return joined(parts, len(params))

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        if self._formulas.score is not None:
            return joined(self._formulas.score(self.distribution(params), actions), len(params))
        with torch.inference_mode(False), torch.enable_grad():
            leaf = params.detach().clone().requires_grad_()
            value = self.log_prob(leaf, actions.clone() if actions.is_inference() else actions)
            return torch.autograd.grad(value.sum(), leaf)[0]

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if generator is None:
            return self._sample(params, torch.Size())
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        with seeded(int(seed), params):
            return self._sample(params, torch.Size())

    def mode(self, params: Tensor) -> Tensor:
        return self.distribution(params).mode


class _NothingDrawn(Exception):
    """The parameters, which are not finite, are those of no distribution to draw from."""


@contextmanager
def nan_if_invalid(params: Tensor) -> Iterator[list[Tensor]]:
    """A list whose last entry is the result: NaN [N] until there is another, and where the
    parameters [N, D] are those of no distribution.
    """
    result = [params.new_full(params.shape[:1], float("nan"))]
    try:
        yield result
    except (torch.linalg.LinAlgError, _NothingDrawn):
        return
    except ValueError as error:
        if not from_validation(error):
            raise


def _kl(formula: Formula, old: Distribution, new: Distribution) -> Tensor:
    """KL(old || new), or a sentence about one that nobody has written."""
    try:
        value: Tensor = formula(old, new)
        return value
    except NotImplementedError:
        raise no_kl(old) from None


def no_kl(distribution: Distribution) -> ValueError:
    name = type(distribution).__name__
    wanted = (
        f"a {name} with a KL, which limits the step (register_head({name}, kl=...), with a "
        "function or 'sampled', or torch.distributions.register_kl)"
    )
    return fail("policy", wanted, "one without")
