"""``NaturalGradient``: a trust-region step on any loss, shaped like one of torch's optimisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.choices import Backend, PreconditionerKind
from .._base.guards import outside_autocast
from .._base.options import KernelSettings, UpdateSettings
from .._base.reads import unvalidated
from .._base.settings import declared
from ..backends.captured import perform, records
from ..backends.work import Work
from ..core import checks
from ..core.problem import UpdateConfig
from ..core.search_checks import check_search
from ..policy.flat import mark_written, trainable
from ..policy.net import MLPPolicy
from .closures import Held
from .loop import CalledLoop, ClosureLoop, KlClosure, Loop
from .recorded import filled, own_code
from .step_info import Directions, StepInfo
from .steps import natural_step, searched

SEARCH = (
    "max_kl", "cg_iterations", "cg_tol", "cg_gain_tol", "factor_fraction", "backtrack_ratio",
    "backtrack_steps",
)  # fmt: skip
KERNELS = declared(KernelSettings)
Losses = Sequence[Callable[..., Tensor]]


@dataclass(frozen=True)
class _Call:
    """What the user called, and on what; the settings, of which max_kl is not one."""

    name: str
    inputs: tuple[Any, ...]
    config: UpdateConfig
    damping: float


class _Performed(NamedTuple):
    """Results, who computed them, and whether they came from a replay."""

    results: Any
    backend: str
    captured: bool


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

    On a device nothing waits until a number of ``info`` is read. On CUDA, calls in plain PyTorch
    are recorded as a graph and replayed (``capture``, ``info.captured``) on the tensors that the
    functions then hold, in closures, defaults, globals and containers of these; Python in them does
    not run again. What holds more than tensors, numbers, modules and functions runs as it is.
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
        capture: bool = KernelSettings.capture,
    ) -> None:
        checks.check_policy(module, "module")
        self._capture = KERNELS["capture"].check(capture)
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
        names = ("module", "_own", "_fvp_rows", "_backend", "_capture")
        own = {name: getattr(self, name) for name in names}
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

    def _check_inputs(self, inputs: tuple[Any, ...]) -> None:
        if torch.is_inference_mode_enabled():
            wanted = "to be called outside of torch.inference_mode(), which forbids derivatives"
            raise fail("NaturalGradient", wanted, "a call within")
        if not inputs:
            raise fail(
                "inputs", "what the module is called on, or a function that returns a KL", ()
            )

    def _loop(self, called: _Call) -> Loop:
        inputs, damping = called.inputs, called.damping
        if _is_kl(inputs):
            return ClosureLoop(self.module, inputs[0], damping=damping)
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
        fixed = replace(config, max_kl=0.0)

        def run(loop: Loop, held: Any, limit: float | Tensor) -> Tensor:
            return natural_step(loop, held, replace(config, max_kl=limit))

        called = _Call("step", inputs, fixed, damping)
        found = self._performed(called, run, loss, config.max_kl)
        return StepInfo(found.backend, found.results, config.backtrack_ratio, found.captured)

    @outside_autocast
    def solve(self, losses: Losses, *inputs: Any) -> Directions:
        """Gradients [P, K] of several losses, and (F + damping I)^-1 times them: each product of
        conjugate gradient is computed for all at once. ``inputs`` as of ``step``, or ``kl``.
        """
        config, damping = self._checked(self.param_groups[0])
        _checked_losses(losses)

        def run(loop: Loop, held: Any) -> tuple[Tensor, Tensor, Tensor]:
            values, g = loop.gradients(held)
            return values, g.T, loop.solve(g, config.cg).x.T

        return Directions(*self._performed(_Call("solve", inputs, config, damping), run, losses)[0])

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
        theta = checks.check_policy(self.module)[1]
        direction = checks.check_tensor("direction", direction, theta, theta.shape)
        fixed = replace(config, max_kl=0.0)

        def run(loop: Loop, held: Any, limit: float | Tensor) -> Tensor:
            within = replace(config, max_kl=limit)
            along, functions, answer = held
            before = loop.at(loop.theta, functions)[1]
            one = torch.ones_like(before[0])
            return searched(loop, functions, before, along, one, within, answer, {})

        called = _Call("search", inputs, fixed, damping)
        held = (direction, _checked_losses(losses), accept)
        found = self._performed(called, run, held, config.max_kl)
        return StepInfo(found.backend, found.results, config.backtrack_ratio, found.captured)

    def _performed(
        self, called: _Call, run: Callable[..., Any], held: Any, *numbers: float | Tensor
    ) -> _Performed:
        """``run(loop, held, *numbers)``; a replay, where the device and what is held allow it. The
        numbers are then 0-d tensors, and may be others at every call.
        """
        self._check_inputs(called.inputs)
        module, flat = checks.check_policy(self.module)
        capture = self._capture and records(flat.device)
        if not capture or (isinstance(module, MLPPolicy) and not _is_kl(called.inputs)):
            with unvalidated(flat.device):
                loop = self._loop(called)
                if not (capture and loop.records):  # kernels solve in one launch: not recorded
                    return _Performed(run(loop, held, *numbers), loop.backend, False)
        whole = Held((held, called.inputs, module), flat)
        settings = {f"number {i}": filled(number, flat) for i, number in enumerate(numbers)}
        inputs, given = {**whole.inputs, **settings}, (held, called.inputs, module)

        def again(tensors: Mapping[str, Tensor]) -> tuple[Any, str]:
            mine, rows, _ = given if tensors is inputs else whole.of(tensors)
            with unvalidated(flat.device):
                loop = self._loop(replace(called, inputs=rows))
                return run(loop, mine, *(tensors[name] for name in settings)), loop.backend

        config = called.config
        options = (config, called.damping, self._fvp_rows, self._backend, whole.key)
        why_not = whole.refusal or own_code(config.cg)
        name, written = f"NaturalGradient.{called.name}", (flat,)
        work = Work(module, name, options, inputs, written, again, why_not, whole.unknown)
        (results, backend), captured = perform(work, capture=True)
        mark_written(module)  # a replay goes past torch's counters
        return _Performed(results, backend, captured)


def _checked_losses(losses: Losses) -> Losses:
    if not isinstance(losses, Sequence) or not losses or not all(map(callable, losses)):
        raise fail("losses", "a list of at least one function", type(losses).__name__)
    return losses


def _of_one(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A user's M^-1 that gets one right-hand side as a vector [P], several as columns [P, K]."""
    return lambda r: apply(r[:, 0]).unsqueeze(1) if r.ndim == 2 and r.shape[1] == 1 else apply(r)


def _is_kl(inputs: tuple[Any, ...]) -> bool:
    """Whether what follows a loss is a function that returns a KL, in place of inputs."""
    return len(inputs) == 1 and callable(inputs[0]) and not isinstance(inputs[0], Tensor)
