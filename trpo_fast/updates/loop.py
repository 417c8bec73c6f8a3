"""What ``NaturalGradient`` asks of a module, in the two forms it can be given: called on inputs, it
returns a distribution; or closures call it, and the KL that one gives is differentiated twice.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map

from .._base.arguments import describe, fail
from ..backends.reference import ReferenceOperator
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch
from ..core.cg import CgResult, cg
from ..core.modules import InvalidDistribution, ModuleFunction
from ..core.operator import Operator
from ..core.problem import CgConfig
from ..policy.distributions import from_validation
from ..policy.flat import trainable, write_params
from ..policy.heads import head_of_distribution, without_head
from ..policy.net import MLPPolicy
from ..policy.substitute import Substitution
from .problems import make_problem

Closure = Callable[..., Tensor]
KlClosure = Callable[[], Tensor | Distribution]


class Loop(abc.ABC):
    """A module around its present parameters ``theta`` [P], copied from the view ``flat``."""

    backend: str
    records = True  # whether what it does is operators of torch, which may be recorded

    def __init__(self, module: nn.Module) -> None:
        self.module, self.flat = checks.check_policy(module)
        self.theta = self.flat.clone()

    @abc.abstractmethod
    def gradients(self, losses: Sequence[Closure]) -> tuple[Tensor, Tensor]:
        """Losses [K] at theta, and their gradients [K, P]."""

    @abc.abstractmethod
    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        """(F + damping I) x = g for g [K, P]."""

    @torch.no_grad()
    def at(self, theta: Tensor, losses: Sequence[Closure]) -> tuple[Tensor, Tensor]:
        """The KL from theta, 0-d, and losses [K] there; NaN where there is no distribution."""
        try:
            return self.measured(theta, losses)
        except ValueError as error:
            if not (isinstance(error, InvalidDistribution) or from_validation(error)):
                raise
        nothing = self.theta.new_full((len(losses) + 1,), float("nan"))
        return nothing[0], nothing[1:]

    @abc.abstractmethod
    def measured(self, theta: Tensor, losses: Sequence[Closure]) -> tuple[Tensor, Tensor]:
        """What ``at`` returns, where there are distributions."""

    def write(self, theta: Tensor) -> None:
        """Move the module's parameters."""
        write_params(self.module, self.flat, theta)

    def _value(self, loss: Closure, *arguments: Any) -> Tensor:
        return checked_value("loss", loss(*arguments), self.theta)


def checked_value(argument: str, value: Any, theta: Tensor) -> Tensor:
    """What a closure returned, if it is one number on the module's device."""
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        got = describe(value) if isinstance(value, Tensor) else type(value).__name__
        raise fail(argument, "a function that returns one number, a 0-d tensor", got)
    if value.device != theta.device:
        raise fail(argument, f"a number on {theta.device}", f"one on {value.device}")
    return value.reshape(()).to(theta.dtype)


class Applied(nn.Module):
    """A module on inputs that it is given beforehand: called with indices, it sees those rows."""

    def __init__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        super().__init__()
        self.module, self.inputs = module, list(inputs)
        buffers = {id(b): b.clone() for b in module.buffers()}
        with torch.no_grad():
            found = Substitution(buffers).module(module)(*inputs)
        self.rows = 1
        if isinstance(found, Distribution) and found.batch_shape:
            self.rows = found.batch_shape[0]  # any other is refused by whoever asks for its head
        lengths = {len(x) for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.ndim}
        self.divisible = lengths == {self.rows}

    def forward(self, index: Tensor) -> Any:
        """The module's result for rows [M] of its inputs."""
        if len(index) == self.rows:
            return self.module(*self.inputs)
        if not self.divisible:
            raise RuntimeError("inputs whose rows belong together")
        return self.module(*tree_map(lambda x: _picked(x, index), self.inputs))


def _picked(x: Any, index: Tensor) -> Any:
    return x[index.to(x.device)] if isinstance(x, Tensor) and x.ndim else x


class CalledLoop(Loop):
    """A module called on inputs returns a distribution; losses are functions of that."""

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[Any, ...],
        *,
        damping: float,
        fvp_rows: int | None,
        backend: str,
    ) -> None:
        super().__init__(module)
        policy: nn.Module = self.module
        if isinstance(policy, MLPPolicy) and len(inputs) <= 2:
            batch = Batch(inputs[0], action_mask=inputs[1] if len(inputs) == 2 else None)
        else:
            policy = Applied(policy, inputs)
            batch = Batch(torch.arange(policy.rows, device=self.theta.device))
        self._batch = checks.check_rows(policy, self.theta, batch)
        problem = make_problem(
            policy, self._batch, theta=self.flat, damping=damping, fvp_rows=fvp_rows
        )
        chosen = self._chosen = resolve(backend, problem)
        self._problem, self.records = problem, chosen.records(problem)
        self._old: Tensor | None = None

    @property
    def backend(self) -> str:  # type: ignore[override]
        """The name of what computes the products; another's once a launch of the first failed."""
        return self._chosen.name

    @cached_property
    def _operator(self) -> Operator:
        return self._chosen.operator(self._problem)

    @cached_property
    def _function(self) -> ModuleFunction:
        operator = self._operator
        known = operator.module if isinstance(operator, ReferenceOperator) else None
        return known or ModuleFunction(self._problem.policy, self._batch)

    @torch.enable_grad()
    def gradients(self, losses: Sequence[Closure]) -> tuple[Tensor, Tensor]:
        leaf = self.theta.clone().requires_grad_()
        params, distribution = self._function.distribution(leaf, self._batch)
        self._old = params.detach()
        values = [self._value(loss, distribution) for loss in losses]
        for value in values:
            if not value.requires_grad:
                raise fail("loss", "a function of the distribution it is given", "a constant")
        slopes = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in values]
        return torch.stack(values).detach(), torch.stack(slopes)

    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        return self._operator.solve(g, config)

    def measured(self, theta: Tensor, losses: Sequence[Closure]) -> tuple[Tensor, Tensor]:
        if self._old is None:
            self._old = self._function.distribution(self.theta, self._batch)[0]
        params, distribution = self._function.distribution(theta, self._batch)
        values = [self._value(loss, distribution) for loss in losses]
        return self._function.head.kl(self._old, params).mean(), torch.stack(values)


class ClosureLoop(Loop):
    """Closures of no arguments run the module; the Fisher matrix is the Hessian of a KL, by double
    backward.
    """

    backend = "autograd"

    def __init__(self, module: nn.Module, kl: KlClosure, *, damping: float) -> None:
        super().__init__(module)
        self._closure, self._damping = kl, damping
        self._old: Tensor | None = None  # distribution parameters at theta, of a KL that is ours
        self._parameters = trainable(self.module)
        self._slope: Tensor | None = None

    @torch.enable_grad()
    def gradients(self, losses: Sequence[Closure]) -> tuple[Tensor, Tensor]:
        values = [self._value(loss) for loss in losses]
        for value in values:
            if not value.requires_grad:
                raise fail("loss", "a function of the module's parameters", "a constant")
        slopes = [self._flat_gradient(value).detach() for value in values]
        return torch.stack(values).detach(), torch.stack(slopes)

    def _flat_gradient(self, value: Tensor, *, graph: bool = False) -> Tensor:
        """The gradient [P]; with ``graph`` it can be differentiated, and value again."""
        found = torch.autograd.grad(
            value,
            self._parameters,
            retain_graph=True,
            create_graph=graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([part.reshape(-1) for part in found])

    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        apply = config.preconditioner
        if apply == "kfac":
            wanted = "a function or None for a KL of your own, whose rows it does not show"
            raise fail("preconditioner", wanted, "'kfac'")
        return cg(self._product, g, config.iterations, config.tol, config.gain_tol, apply)

    def _kl(self) -> Tensor:
        """The KL from theta at the module's parameters, which are theta at the first call."""
        found = self._closure()
        if not isinstance(found, Distribution):
            return checked_value("kl", found, self.theta)
        known = head_of_distribution(found)
        if known is None:
            raise without_head(repr(found))
        head, params = known
        if self._old is None:
            self._old = params.detach()
        return head.kl(self._old, params).mean()

    @torch.enable_grad()
    def _product(self, v: Tensor) -> Tensor:
        """F v + damping v of v [P] or [K, P]."""
        if v.ndim > 1:
            return torch.stack([self._product(one) for one in v])
        if self._slope is None:
            # Compiled modules cannot be differentiated twice.
            with torch.compiler.set_stance("force_eager"):
                value = self._kl()
                if not value.requires_grad:
                    raise fail("kl", "a function of the module's parameters", "a constant")
                self._slope = self._flat_gradient(value, graph=True)
        if not self._slope.requires_grad:
            raise fail("kl", "a function that can be differentiated twice", "a linear one")
        product = self._flat_gradient(self._slope @ v)
        return product.detach() + self._damping * v

    def measured(self, theta: Tensor, losses: Sequence[Closure]) -> tuple[Tensor, Tensor]:
        try:
            self.write(theta)
            values = torch.stack([self._value(loss) for loss in losses])
            return self._kl(), values
        finally:  # an exception of a closure, Ctrl-C among them, leaves the parameters as they were
            self.write(self.theta)
