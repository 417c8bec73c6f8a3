"""Which code fits a critic's net: what computes a fit, by backend, and which nets each serves.

The critic chooses by these tables, and the classes that stand in for those of other libraries do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._base.choices import Backend
from .._base.options import KernelSettings
from ..backends.support import PYTORCH, Support
from ..policy.net import MLPPolicy
from .fits import Fit, NativeFit, Targets, curvature_rows, fit_gauss_newton, fit_support
from .fits_cuda import CudaFit, cuda_fit_support
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


def make_fit(chosen: str, net: MLPPolicy | ValueNet, targets: Targets, capture: bool) -> Fit:
    """What computes a fit of a net to these targets; ``capture`` as ``Critic`` takes it."""
    if FITS[chosen] is ReferenceFit:
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
