"""Any module that returns a distribution, and ``backend="autograd"``: the double backward that
other libraries use.

``ModuleLinearization`` gives the reference backend its Gauss-Newton stages for a custom module
through torch.func. ``AutogradOperator`` differentiates the mean KL twice, keeping the graph of its
gradient across CG iterations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli as BernoulliDistribution,
)
from torch.distributions import (
    Categorical as CategoricalDistribution,
)
from torch.distributions import Distribution, Independent, Normal
from torch.func import functional_call

from .arguments import describe, fail
from .backend import Backend, Problem
from .distributions import MultiCategoricalDistribution, SquashedNormal
from .heads import (
    MASKED,
    Bernoulli,
    Categorical,
    Gaussian,
    Head,
    MultiCategorical,
)
from .policy import MLPPolicy
from .reference_backend import ReferenceOperator
from .surrogate import Batch, Evaluation, normalised_weights, surrogate


def head_and_params(distribution: Distribution) -> tuple[Head, Tensor]:
    """The head whose closed forms a distribution obeys, and its distribution parameters [N, D]."""
    if isinstance(distribution, SquashedNormal):
        return head_and_params(distribution.base_dist)
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(base, Normal):
        mean = base.loc.reshape(base.loc.shape[0], -1)
        log_std = base.scale.log().reshape(mean.shape)
        return Gaussian(mean.shape[-1], "state"), torch.cat([mean, log_std], dim=-1)
    if isinstance(base, BernoulliDistribution):
        logits = base.logits.reshape(base.logits.shape[0], -1)
        return Bernoulli(logits.shape[-1]), logits
    if isinstance(base, CategoricalDistribution) and base.logits.ndim == 2:
        return Categorical(base.logits.shape[-1]), base.logits.clamp_min(MASKED)
    if isinstance(base, MultiCategoricalDistribution):
        return MultiCategorical(base.nvec), base.logits.clamp_min(MASKED)
    raise ValueError(
        "policy: expected a module that returns Normal, Independent(Normal), SquashedNormal, "
        f"Categorical, MultiCategoricalDistribution or Bernoulli over N rows, got {distribution!r}"
    )


def head_of(policy: nn.Module, batch: Batch) -> Head:
    """A policy's head: an ``MLPPolicy``'s own, otherwise the one that the first rows'
    distribution obeys.
    """
    if isinstance(policy, MLPPolicy):
        return policy.head
    try:
        return _head_of(policy, batch.rows(slice(0, 2)))
    except ValueError:  # it may take its rows only together, say as sequences
        if len(batch) <= 2:
            raise
        return _head_of(policy, batch)


def _head_of(policy: nn.Module, batch: Batch) -> Head:
    inputs = _inputs(batch.without_padding())
    with torch.no_grad(), _explained(inputs):
        return head_and_params(policy(*inputs))[0]


def _inputs(batch: Batch) -> tuple[Tensor, ...]:
    return (batch.obs,) if batch.action_mask is None else (batch.obs, batch.action_mask)


@contextlib.contextmanager
def _explained(inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """What torch says within a module about shapes and dtypes, as a sentence about the policy."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        takes = f"a module that takes {' and '.join(map(describe, inputs))}"
        raise fail("policy", takes, f"the error: {error}") from error


def functional_params(policy: nn.Module, batch: Batch) -> Callable[[Tensor], tuple[Head, Tensor]]:
    """theta [P] -> (head, distribution parameters [N, D]), differentiable in theta."""
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    shapes = [p.shape for p in policy.parameters() if p.requires_grad]
    sizes = [shape.numel() for shape in shapes]
    mlp = policy if isinstance(policy, MLPPolicy) and not policy.overridden() else None
    frozen = {name: p.detach() for name, p in policy.named_parameters() if not p.requires_grad}
    inputs = _inputs(batch)

    def params(theta: Tensor) -> tuple[Head, Tensor]:
        parts = theta.split(sizes)
        state = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        state |= {n: p.to(theta.dtype) for n, p in frozen.items()}
        if mlp is not None:
            return mlp.head, _mlp_params(mlp, state, batch)
        with _explained(inputs):
            return head_and_params(functional_call(policy, state, inputs))

    return params


def _mlp_params(policy: MLPPolicy, state: dict[str, Tensor], batch: Batch) -> Tensor:
    net = {name.removeprefix("net."): p for name, p in state.items() if name.startswith("net.")}
    z = functional_call(policy.net, net, (batch.obs,))
    return policy.head.distribution_params(
        z, log_std=state.get("head.log_std"), mask=batch.action_mask
    )


class ModuleLinearization:
    """torch.func's jvp and vjp of a module's distribution parameters."""

    def __init__(self, policy: nn.Module, theta: Tensor, batch: Batch) -> None:
        self._function = functional_params(policy, batch)
        self.theta = theta
        with torch.no_grad():
            self.head, self.params = self._function(theta)
        self._pullback: Callable[[Tensor], tuple[Tensor, ...]] | None = None

    def _params(self, theta: Tensor) -> Tensor:
        return self._function(theta)[1]

    def jvp(self, v: Tensor) -> Tensor:
        if v.ndim > 1:
            return torch.stack([self.jvp(column) for column in v])
        tangent: Tensor = torch.func.jvp(self._params, (self.theta,), (v,))[1]
        return tangent

    def metric(self, tangent: Tensor) -> Tensor:
        return self.head.metric(self.params, tangent)

    def vjp(self, delta: Tensor) -> Tensor:
        if delta.ndim > 2:
            return torch.stack([self.vjp(rows) for rows in delta])
        if self._pullback is None:
            self._pullback = torch.func.vjp(self._params, self.theta)[1]
        return self._pullback(delta)[0].detach()

    def nbytes(self) -> int:
        return self.params.numel() * self.params.element_size()


class AutogradOperator(ReferenceOperator):
    """Double backward through the mean KL; the graph of its gradient is built once and kept."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(replace(problem, batch=problem.batch.tracked()))
        self._leaf: Tensor | None = None
        self._kl_gradient: Tensor | None = None

    @torch.enable_grad()
    def _graph(self) -> tuple[Tensor, Tensor]:
        if self._leaf is None or self._kl_gradient is None:
            batch = self._fisher_batch
            self._leaf = self.theta.detach().requires_grad_()
            head, params = functional_params(self.problem.policy, batch)(self._leaf)
            weights = normalised_weights(batch, self._fisher_total)
            kl = self.problem.kl_scale * (weights * head.kl(params.detach(), params)).sum()
            (self._kl_gradient,) = torch.autograd.grad(kl, self._leaf, create_graph=True)
        return self._leaf, self._kl_gradient

    @torch.enable_grad()
    def fvp(self, v: Tensor) -> Tensor:
        if v.ndim > 1:
            return torch.stack([self.fvp(column) for column in v])
        leaf, kl_gradient = self._graph()
        (product,) = torch.autograd.grad(kl_gradient @ v, leaf, retain_graph=True)
        return product + self.problem.damping * v

    @torch.enable_grad()
    def gradient(self) -> tuple[Tensor, Evaluation]:
        leaf = self.theta.detach().requires_grad_()
        head, params = functional_params(self.problem.policy, self.batch)(leaf)
        value, _ = surrogate(head, self.batch, params.detach(), params, self.total)
        (g,) = torch.autograd.grad(value, leaf)
        old = params.detach()
        return g, self._evaluate_rows(head, self.batch, old, old)


class AutogradBackend(Backend):
    """The peers' way, for comparison and for modules torch.func cannot take."""

    name = "autograd"

    def refuses(self, problem: Problem) -> str | None:
        if problem.fisher != "analytic":
            return "fisher='empirical' exists in backend='reference' only"
        if torch.is_inference_mode_enabled():
            return "it differentiates, which torch.inference_mode() forbids; leave that block"
        if problem.chunk_rows is not None:
            return "chunk_rows needs a forward per chunk; use backend='reference'"
        return None

    def operator(self, problem: Problem) -> AutogradOperator:
        return AutogradOperator(problem)
