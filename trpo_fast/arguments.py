"""Checks of arguments that need no knowledge of policies: numbers, counts, choices, tensors.

A sentence reads "argument: expected ..., got ...". What a policy and its batch must be to each
other is in checks.py, which has these names as well.
"""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

DIGITS = 40  # of an integer on a command line: more are in no range


def fail(argument: str, expected: str, got: object) -> ValueError:
    return ValueError(f"{argument}: expected {expected}, got {got}")


def check_number(
    argument: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """A finite real number with above < value, least <= value, value < below, value <= most."""
    if isinstance(value, bool) or not isinstance(value, Real):
        got = f"{value!r} ({type(value).__name__})"
        raise fail(argument, _number("number", above, least, below, most), got)
    try:
        number = float(value)
    except OverflowError:  # an integer past every float
        number = math.inf
    if not math.isfinite(number) or not above < number < below or not least <= number <= most:
        raise fail(argument, _number("number", above, least, below, most), value)
    return number


def check_count(argument: str, value: Any, *, least: float = 1, most: float = math.inf) -> int:
    """An integer with least <= value <= most; NumPy's count."""
    good = isinstance(value, Integral) and not isinstance(value, bool)
    if not good or not least <= int(value) <= most:
        raise fail(argument, _number("integer", least=least, most=most), repr(value))
    return int(value)


def _number(
    kind: str,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> str:
    """The words for a number with these bounds."""
    limits = math.isfinite(max(above, least)) and math.isfinite(min(below, most))
    words = "an integer" if kind == "integer" else "a number" if limits else "a finite number"
    if math.isfinite(least) and math.isfinite(most):
        return f"{words} from {_text(least)} to {_text(most)}"
    low = f" above {_text(above)}" if above > -math.inf else ""
    low = f" of at least {_text(least)}" if least > -math.inf else low
    high = f" below {_text(below)}" if below < math.inf else ""
    high = f" of at most {_text(most)}" if most < math.inf else high
    return words + (f"{low} and{high}" if low and high else low + high)


def _text(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def check_counts(
    argument: str, values: Any, *, least_length: int = 0, most: float = math.inf
) -> tuple[int, ...]:
    """Positive integers in a sequence; NumPy's count."""
    limit = "of at least 1" if most == math.inf else f"from 1 to {_text(most)}"
    wanted = f"a sequence of integers {limit}"
    if least_length:
        wanted = f"at least {least_length} in {wanted}"
    try:
        found = tuple(values)
    except TypeError:
        raise fail(argument, wanted, repr(values)) from None
    good = all(
        isinstance(n, Integral) and not isinstance(n, bool) and 1 <= int(n) <= most for n in found
    )
    if not good or len(found) < least_length:
        raise fail(argument, wanted, repr(values))
    return tuple(int(n) for n in found)


def integer(text: str) -> int:
    """The integer that a word of a command line stands for: 100000, 100_000 or 1e5."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    short = number.is_finite() and number.adjusted() < DIGITS
    if not short or number != number.to_integral_value():
        raise ValueError(f"expected an integer such as 100000 or 1e5, got {text}")
    return int(number)


def check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise fail(argument, f"one of {choices}", repr(value))
    return value


def check_tensor(
    argument: str, value: Any, like: Tensor, shape: tuple[int | None, ...], *, dtypes: Any = None
) -> Tensor:
    """A tensor of ``shape`` (None matches any length) on the parameters' device, of their dtype
    unless told otherwise.
    """
    if not isinstance(value, Tensor):
        raise fail(argument, "a torch.Tensor", type(value).__name__)
    allowed = (like.dtype,) if dtypes is None else dtypes
    if value.dtype not in allowed:
        raise fail(argument, f"dtype {' or '.join(map(str, allowed))}", value.dtype)
    if value.device != like.device:
        raise fail(
            argument, f"a tensor on {like.device}, where the policy is", f"one on {value.device}"
        )
    fits = len(value.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, value.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("N" if n is None else str(n) for n in shape)
        raise fail(argument, f"shape [{wanted}]", list(value.shape))
    return value.detach()


def check_dtype(argument: str, value: Any) -> None:
    if value not in (None, torch.float32, torch.float64):
        raise fail(argument, "torch.float32 or torch.float64", repr(value))


def check_device(argument: str, value: Any) -> None:
    try:
        torch.device("cpu" if value is None else value)
    except (RuntimeError, TypeError):
        raise fail(argument, "a torch device such as 'cpu' or 'cuda:0'", repr(value)) from None
