"""Which code fits a critic's net: what computes a fit, by backend, and which nets each serves.

The critic chooses by these tables, and the classes that stand in for those of other libraries do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._base.choices import Backend, CriticMethod
from .._base.options import KernelSettings
from .._base.rows import Rows
from ..backends.support import PYTORCH, Support
from ..policy.net import MLPPolicy
from .fits import (
    AdamState,
    Fit,
    NativeFit,
    Targets,
    curvature_rows,
    fit_adam,
    fit_gauss_newton,
    fit_support,
)
from .fits_cuda import CudaFit, cuda_fit_support, solves_as_wide
from .fits_reference import ReferenceFit
from .value_net import ValueNet

FITS: dict[str, Callable[[Any, Targets], Fit]] = {
    "cpu": NativeFit,
    "cuda": CudaFit,
    "reference": ReferenceFit,
    "autograd": ReferenceFit,
}
SUPPORTS: dict[str, Callable[..., Support]] = {
    "cpu": fit_support,
    "cuda": cuda_fit_support,
    **PYTORCH,
}


def make_fit(
    chosen: str,
    net: MLPPolicy | ValueNet,
    targets: Targets,
    method: CriticMethod,
    *,
    capture: bool,
) -> Fit:
    """What computes a fit of a net to these targets; the options as ``Critic`` takes them."""
    wide = isinstance(net, MLPPolicy) and chosen == "cuda" and solves_as_wide(net, method)
    if wide or FITS[chosen] is ReferenceFit:
        return ReferenceFit(net, targets, capture=capture)
    return FITS[chosen](net, targets)


def gauss_newton(
    fit: Fit,
    net: MLPPolicy | ValueNet,
    targets: Targets,
    backend: Backend,
    *,
    steps: int,
    fraction: float,
    generator: torch.Generator | None,
    capture: bool = KernelSettings.capture,
    **options: Any,
) -> tuple[Tensor, int | Tensor]:
    """The last loss and the steps taken, with the options of ``fit_gauss_newton``; the curvature of
    each step is that of a random ``fraction`` of the rows.
    """
    if isinstance(fit, CudaFit):
        return fit.gauss_newton(steps=steps, fraction=fraction, generator=generator, **options)
    parts = curvature_rows(targets.values, steps, fraction, generator)
    options |= {"backend": backend, "capture": capture}
    if isinstance(fit, ReferenceFit):
        return fit.gauss_newton(parts, **options)
    return fit_gauss_newton(fit, net, targets, parts, **options)


def adam(
    fit: Fit, critic: Any, obs: Rows, generator: torch.Generator | None, steps: int
) -> tuple[Tensor, int]:
    """The last loss and the steps taken by a critic's epochs, of so many ``steps`` each."""
    loss = fit_adam(
        fit,
        AdamState(critic.moments[0], critic.moments[1], critic.adam_steps, critic.taken),
        obs,
        epochs=critic.epochs,
        minibatch=critic.minibatch,
        learning_rate=critic.learning_rate,
        generator=generator,
    )
    critic.adam_steps += critic.epochs * steps
    return loss, critic.epochs * steps
