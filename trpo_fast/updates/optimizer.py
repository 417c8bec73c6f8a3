"""``NaturalGradient``: a trust-region step on any loss, shaped like one of torch's optimisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.choices import Backend, PreconditionerKind
from .._base.guards import outside_autocast
from .._base.options import KernelSettings, UpdateSettings
from ..core import checks
from ..core.cg import CgResult
from ..core.problem import UpdateConfig
from ..core.reference import line_search, step
from ..core.search_checks import check_search
from ..policy.flat import trainable
from .loop import CalledLoop, ClosureLoop, KlClosure, Loop
from .step_info import Directions, StepInfo

SEARCH = (
    "max_kl", "cg_iterations", "cg_tol", "cg_gain_tol", "factor_fraction", "backtrack_ratio",
    "backtrack_steps",
)  # fmt: skip
Losses = Sequence[Callable[..., Tensor]]


class NaturalGradient(torch.optim.Optimizer):
    """Natural-gradient steps within a trust region, for any loss of what a module returns.

    >>> optimizer = NaturalGradient(policy, max_kl=0.01)
    >>> info = optimizer.step(lambda pi: -(pi.log_prob(actions) * advantages).mean(), obs)

    With g the gradient of the loss, x = (F + damping I)^-1 g: theta <- theta - c^j beta x, beta =
    sqrt(2 max_kl / x'(F + damping I)x), for the first j < backtrack_steps at which the mean KL from
    the distribution of the call is at most max_kl and the loss is less than before.

    The settings are those of ``trpo_update``, here in ``param_groups[0]``, so that a schedule can
    write them and ``state_dict`` holds them; ``fvp_rows`` and a preconditioner that is a function
    stay out of it. What counts as a distribution is what updates take: see ``register_head``.
    Compiled modules run as they were before torch.compile where they are differentiated twice, and
    a surrounding autocast does not reach in: begin one within the closure, if it is wanted. No
    ``.grad`` is read or written.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        max_kl: float = UpdateSettings.max_kl,
        damping: float = UpdateSettings.damping,
        cg_iterations: int = UpdateSettings.cg_iterations,
        cg_tol: float = UpdateSettings.cg_tol,
        cg_gain_tol: float = UpdateSettings.cg_gain_tol,
        preconditioner: PreconditionerKind
        | Callable[[Tensor], Tensor]
        | None = UpdateSettings.preconditioner,
        factor_fraction: float = UpdateSettings.factor_fraction,
        backtrack_ratio: float = UpdateSettings.backtrack_ratio,
        backtrack_steps: int = UpdateSettings.backtrack_steps,
        fvp_rows: int | None = None,
        backend: Backend = KernelSettings.backend,
    ) -> None:
        checks.check_policy(module)
        self.module, self._fvp_rows, self._backend = module, fvp_rows, backend
        self._own = preconditioner if callable(preconditioner) else None
        settings: dict[str, Any] = {
            "max_kl": max_kl,
            "damping": damping,
            "cg_iterations": cg_iterations,
            "cg_tol": cg_tol,
            "cg_gain_tol": cg_gain_tol,
            "preconditioner": None if callable(preconditioner) else preconditioner,
            "factor_fraction": factor_fraction,
            "backtrack_ratio": backtrack_ratio,
            "backtrack_steps": backtrack_steps,
        }
        self._checked(settings)
        super().__init__(trainable(module), settings)

    def __getstate__(self) -> dict[str, Any]:  # torch's leaves out what a subclass holds
        own = {name: getattr(self, name) for name in ("module", "_own", "_fvp_rows", "_backend")}
        return super().__getstate__() | own

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The one group there is; a second is refused, the trust region spans the module."""
        if self.param_groups:
            raise fail("param_group", "one group, the module's parameters", "another")
        super().add_param_group(param_group)

    def _checked(self, settings: dict[str, Any]) -> tuple[UpdateConfig, float]:
        """The settings as they are now, and the damping."""
        chosen = {name: settings[name] for name in SEARCH}
        apply = settings["preconditioner"] if self._own is None else _of_one(self._own)
        config = check_search(preconditioner=apply, **chosen)
        return config, checks.UPDATE["damping"].check(settings["damping"])

    def _loop(self, inputs: tuple[Any, ...], damping: float) -> Loop:
        if torch.is_inference_mode_enabled():
            wanted = "to be called outside of torch.inference_mode(), which forbids derivatives"
            raise fail("NaturalGradient", wanted, "a call within")
        if not inputs:
            raise fail(
                "inputs", "what the module is called on, or a function that returns a KL", ()
            )
        first = inputs[0]
        if len(inputs) == 1 and callable(first) and not isinstance(first, Tensor):
            return ClosureLoop(self.module, first, damping=damping)
        rows, backend = self._fvp_rows, self._backend
        return CalledLoop(self.module, inputs, damping=damping, fvp_rows=rows, backend=backend)

    @overload  # type: ignore[override]
    def step(self, loss: Callable[[], Tensor], kl: KlClosure, /) -> StepInfo: ...

    @overload
    def step(self, loss: Callable[[Any], Tensor], /, *inputs: Any) -> StepInfo: ...

    @outside_autocast
    def step(self, loss: Callable[..., Tensor], *inputs: Any) -> StepInfo:
        """One step that makes the loss, a 0-d tensor, less: ``loss(distribution)`` of what
        ``module(*inputs)`` returns, inputs [N, ...] being tensors, dicts of them, or None.

        Or ``step(loss, kl)`` with two functions of no arguments, which are run at every trial with
        the parameters in place: ``kl()`` is the module's distribution, or the mean KL to it, 0-d,
        from a fixed one, that of the present parameters. Its Hessian comes by double backward.
        """
        config, damping = self._checked(self.param_groups[0])
        loop = self._loop(inputs, damping)
        before, g = loop.gradients([loss])
        found = loop.solve(g, config.cg)
        beta = step(found.quad[0], config.max_kl).to(g.dtype)
        if reason := _why_not(before, g[0], found):
            info = _unmoved(reason, loop, before)
        else:
            direction = -found.x[0]
            info = _search(
                loop, [loss], before, direction, beta, config, lambda x: x[0] < before[0]
            )
        return replace(
            info,
            quad=float(found.quad[0]),
            linear_gain=float(found.linear_gain[0]),
            gradient_norm=float(g[0].double().norm()),
            cg_residual=float(found.residual_norm[0]),
            cg_iterations=int(found.iterations[0]),
            factor_rows=found.factor_rows,
            restarts=int(found.restarts[0]),
        )

    @outside_autocast
    def solve(self, losses: Losses, *inputs: Any) -> Directions:
        """Gradients [P, K] of several losses, and (F + damping I)^-1 times them: each product of
        conjugate gradient is computed for all at once. ``inputs`` as of ``step``, or ``kl``.
        """
        config, damping = self._checked(self.param_groups[0])
        loop = self._loop(inputs, damping)
        values, g = loop.gradients(_checked_losses(losses))
        found = loop.solve(g, config.cg)
        return Directions(values, g.T, found.x.T)

    @outside_autocast
    def search(
        self,
        direction: Tensor,
        losses: Losses,
        accept: Callable[[Tensor], bool | Tensor],
        *inputs: Any,
    ) -> StepInfo:
        """theta + c^j direction [P] for the first j < backtrack_steps at which the KL is at most
        max_kl and ``accept(losses [K] there)`` holds; all of them finite.
        """
        config, damping = self._checked(self.param_groups[0])
        loop = self._loop(inputs, damping)
        direction = checks.check_tensor("direction", direction, loop.theta, loop.theta.shape)
        held = _checked_losses(losses)
        _, before = loop.at(loop.theta, held)
        one = torch.ones_like(before[0])
        return _search(loop, held, before, direction, one, config, accept)


def _checked_losses(losses: Losses) -> Losses:
    if not isinstance(losses, Sequence) or not losses or not all(map(callable, losses)):
        raise fail("losses", "a list of at least one function", type(losses).__name__)
    return losses


def _of_one(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A user's M^-1 that gets one right-hand side as a vector [P], several as columns [P, K]."""
    return lambda r: apply(r[:, 0]).unsqueeze(1) if r.ndim == 2 and r.shape[1] == 1 else apply(r)


def _why_not(before: Tensor, g: Tensor, found: CgResult) -> str:
    """Why there is nothing to search along; empty if there is."""
    curvature = found.first_curvature[0]
    finite = torch.isfinite(g).all() & torch.isfinite(before).all()
    finite = finite & torch.isfinite(found.x).all() & torch.isfinite(curvature)
    if not bool(finite):
        return "non_finite"
    if bool((g == 0).all()):
        return "zero_gradient"
    return "negative_curvature" if bool(curvature <= 0) else ""


def _unmoved(reason: str, loop: Loop, before: Tensor) -> StepInfo:
    losses = _floats(before)
    return StepInfo(reason, loop.backend, 0.0, losses, losses, 0.0, 0)


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())


def _search(
    loop: Loop,
    losses: Losses,
    before: Tensor,
    direction: Tensor,
    scale: Tensor,
    config: UpdateConfig,
    accept: Callable[[Tensor], bool | Tensor],
) -> StepInfo:
    """The line search along scale direction; the step is put in place if there is one."""

    def evaluate(theta: Tensor) -> tuple[Tensor, Tensor]:
        kl, values = loop.at(theta, losses)
        good = bool(torch.isfinite(values).all()) and bool(accept(values))
        return kl, torch.full_like(kl, float(good))

    j, theta, found = line_search(
        evaluate,
        loop.theta,
        scale * direction,
        max_kl=config.max_kl,
        before=torch.zeros_like(scale),
        ratio=config.backtrack_ratio,
        steps=config.backtrack_steps,
    )
    if not bool(found):
        return replace(_unmoved("line_search_failed", loop, before), backtracks=int(j))
    kl, after = loop.at(theta, losses)
    loop.write(theta)
    size = float(scale) * config.backtrack_ratio ** int(j)
    return StepInfo(
        "accepted", loop.backend, float(kl), _floats(before), _floats(after), size, int(j)
    )
