"""``register_head``: updates for modules that return a distribution of one's own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from ..._base.arguments import check_count, fail
from .base import Head
from .registered import Formulas, Parts, RegisteredHead, joined, rows_of

D = TypeVar("D", bound=Distribution)

_registered: dict[type[Distribution], Formulas] = {}


def register_head(
    kind: type[D],
    *,
    params: Sequence[str] | Callable[[D], Parts],
    distribution: Callable[..., D] | None = None,
    kl: Callable[[D, D], Tensor] | Literal["sampled"] | None = None,
    log_prob: Callable[[D, Tensor], Tensor] | None = None,
    entropy: Callable[[D], Tensor] | None = None,
    sample: Callable[[D, torch.Size], Tensor] | None = None,
    metric: Callable[..., Parts] | None = None,
    metric_root: Callable[..., Parts] | None = None,
    score: Callable[[D, Tensor], Parts] | None = None,
    samples: int = 64,
) -> None:
    """Have updates take modules that return distributions of this class, or of a subclass.

    >>> register_head(MultivariateNormal, params=("loc", "scale_tril"))

    ``params``: the tensors [N, ...] that a distribution is made of, as a function of it or as names
    of its attributes, which are then its constructor's keywords. ``distribution`` makes one of
    them again. Any smooth coordinates will do, the update is the same in all.

    Optional are ``kl(old, new)`` [N], by default torch.distributions.kl_divergence;
    ``log_prob(distribution, actions)`` and ``entropy(distribution)`` [N]; ``sample(distribution,
    shape)`` [*shape, N, ...]; ``metric(distribution, *tangents)``, the Fisher information times
    tensors like ``params``, by default the Hessian of the KL by autograd; ``metric_root``, the same
    for S with S S' the Fisher information (K-FAC), by default from the metric's eigenvalues; and
    ``score(distribution, actions)``, the gradients of the log-probability in each of ``params``,
    by default autograd's.

    ``kl="sampled"`` is for distributions without a KL: over ``samples`` actions a row, drawn from
    the old distribution with the same random numbers at every call, the mean of r - 1 - log r, r
    the ratio of new to old probability; ``log_prob`` then gets actions [samples, N, ...]. Its
    Hessian, the metric, is the empirical Fisher matrix of those actions. They also estimate the
    entropy of a distribution that has none; otherwise an unknown entropy is NaN.
    """
    if not (isinstance(kind, type) and issubclass(kind, Distribution)):
        raise fail("kind", "a subclass of torch.distributions.Distribution", repr(kind))
    given: dict[str, object] = {"distribution": distribution, "log_prob": log_prob}
    given |= {"entropy": entropy, "sample": sample, "metric": metric, "metric_root": metric_root}
    given |= {"score": score}
    for name, formula in given.items():
        if formula is not None and not callable(formula):
            raise fail(name, "a function or None", repr(formula))
    if not (kl is None or kl == "sampled" or callable(kl)):
        raise fail("kl", "a function of two distributions, 'sampled' or None", repr(kl))
    if callable(params):
        if distribution is None:
            wanted = "a function of the tensors that params returns"
            raise fail("distribution", f"{wanted} (only names need none)", "None")
        of, make = params, distribution
    else:
        of, make = _by_names(kind, params, distribution)
    _registered[kind] = Formulas(
        kind, of, make, kl, log_prob, entropy, sample, metric, metric_root, score,
        check_count("samples", samples),
    )  # fmt: skip


def unregister_head(kind: type[Distribution]) -> None:
    """Take back what ``register_head`` said of this class; nothing if it was not registered."""
    _registered.pop(kind, None)


def registrations() -> Hashable:
    """Equal as long as nothing was registered or taken back."""
    return tuple(_registered.values())


def _by_names(
    kind: type[D], names: Any, distribution: Callable[..., D] | None
) -> tuple[Callable[[D], Parts], Callable[..., D]]:
    """Parameters by their names, which are attributes and keywords of the constructor."""
    wanted = "a function of a distribution, or names such as ('loc', 'scale')"
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise fail("params", wanted, repr(names))
    if not all(isinstance(name, str) for name in names):
        raise fail("params", wanted, repr(names))
    held = tuple(names)

    def of(found: D) -> Parts:
        return [getattr(found, name) for name in held]

    def make(*parts: Tensor) -> D:
        return kind(**dict(zip(held, parts, strict=True)), validate_args=False)

    return of, distribution or make


def registered_head(distribution: Distribution) -> tuple[Head, Tensor] | None:
    """The head that was registered for a distribution, or for what an ``Independent`` wraps, and
    the distribution parameters [N, D]; None if there is none.
    """
    for found in (distribution, getattr(distribution, "base_dist", None)):
        if found is distribution or isinstance(distribution, Independent):
            for kind in type(found).__mro__:
                if kind in _registered:
                    return _head(_registered[kind], found)
    return None


def _head(formulas: Formulas, distribution: Any) -> tuple[Head, Tensor]:
    parts, name = formulas.params(distribution), formulas.kind.__name__
    rows = rows_of(distribution)
    for part in parts:
        if not isinstance(part, Tensor) or part.shape[:1] != (rows,):
            got = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise fail("params", f"tensors [{rows}, ...] of a {name} over {rows} rows", got)
    shapes = [part.shape[1:] for part in parts]
    return RegisteredHead(formulas, shapes, distribution), joined(parts, rows)
