"""Who serves: one kind of answer for operators, actors, critics and advantages, and the one choice
among backends by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from .._base import choices, extension
from .._base.arguments import check_choice
from ..core.problem import BackendUnavailable

NAMES: tuple[str, ...] = get_args(choices.Backend)  # "auto" among them
FAMILIES = {  # of kernels in a build
    "cpu": "CPU kernels",
    "cuda": "CUDA kernels",
    "act": "kernels that act",
    "critic": "kernels that fit critics",
}


@dataclass(frozen=True)
class Support:
    """Whether something serves; ``why_not`` is the sentence where it does not, otherwise empty.

    It is true where it serves, so ``a and b`` is the first of the two that does not serve.
    """

    why_not: str = ""

    def __bool__(self) -> bool:
        return not self.why_not

    @property
    def status(self) -> str:
        """ "ok", or the sentence."""
        return self.why_not or "ok"

    def insist(self, backend: str, can: str) -> None:
        """Raise for a backend that was asked for by name and cannot do what ``can`` says."""
        if self.why_not:
            raise BackendUnavailable(
                f"backend={backend!r}: expected one that can {can}, got: {self.why_not}"
            )


SERVES = Support()


def anything(*_: Any) -> Support:
    return SERVES


# Candidates for `choose` that compute in plain PyTorch.
PYTORCH: dict[str, Callable[..., Support]] = {"reference": anything, "autograd": anything}


def choose(
    asked: str, candidates: Mapping[str, Callable[..., Support]], *given: Any, can: str
) -> str:
    """The name of the backend for what is ``given`` to the candidates: the one asked for, which is
    never replaced by another, or for "auto" the first that serves. ``can``: what it is to do.
    """
    check_choice("backend", asked, NAMES)
    if asked != "auto":
        candidates[asked](*given).insist(asked, can)
        return asked
    reasons = []
    for name, support in candidates.items():
        answer = support(*given)
        if answer:
            return name
        reasons.append(f"{name} cannot: {answer.why_not}")
    raise BackendUnavailable(
        f"backend={asked!r}: expected one that can {can}, got none: {'; '.join(reasons)}"
    )


def family_support(family: str) -> Support:
    """Whether this build contains a family of kernels."""
    native = extension.module()
    if native is None:
        return Support(extension.why_missing())
    if family not in native.families:
        return Support(f"this build contains no {FAMILIES[family]}")
    return SERVES
