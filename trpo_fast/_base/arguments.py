"""Checks of arguments that need no knowledge of policies: numbers, counts, choices, tensors.

A sentence reads "argument: expected ..., got ...". What a policy and its batch must be to each
other is in core/checks.py, which has these names as well.
"""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MAX_INT = 2**31 - 1  # an int of the kernels, which is how they take iterations, steps and sizes
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
    or_inf: bool = False,
) -> float:
    """A finite real number with above < value, least <= value, value < below, value <= most;
    infinity as well with ``or_inf``.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        got = f"{value!r} ({type(value).__name__})"
        raise fail(argument, _wanted(above, least, below, most, or_inf), got)
    try:
        number = float(value)
    except OverflowError:  # an integer or a fraction beyond float64
        wanted = _wanted(above, least, below, most, or_inf)
        raise fail(argument, wanted, _shown(value)) from None
    if or_inf and number == math.inf:
        return number
    if not math.isfinite(number) or not above < number < below or not least <= number <= most:
        raise fail(argument, _wanted(above, least, below, most, or_inf), value)
    return number


def _wanted(above: float, least: float, below: float, most: float, or_inf: bool) -> str:
    """The words for a number with these bounds."""
    if or_inf:
        return _wanted(above, least, below, most, False) + " or inf"
    if math.isfinite(least) and math.isfinite(most):
        return f"a number from {least:g} to {most:g}"
    low = f" of at least {least:g}" if math.isfinite(least) else ""
    low = f" above {above:g}" if math.isfinite(above) else low
    high = f" of at most {most:g}" if math.isfinite(most) else ""
    high = f" below {below:g}" if math.isfinite(below) else high
    return f"a number{low} and{high}" if low and high else f"a finite number{low}{high}"


def check_count(argument: str, value: Any, *, least: int = 1, most: int = MAX_INT) -> int:
    """An integer from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise fail(argument, f"an integer of at least {least}", _shown(value))
    if int(value) > most:
        raise fail(argument, f"an integer of at most {most}", _shown(value))
    return int(value)


def _shown(value: Any) -> str:
    """A value as a sentence takes it; Python does not print integers of thousands of digits."""
    large = isinstance(value, Integral) and abs(int(value)) > 10**30
    return "one of more than 30 digits" if large else repr(value)


def check_counts(argument: str, values: Any, *, least_length: int = 0) -> tuple[int, ...]:
    """Positive integers in a sequence; NumPy's count."""
    wanted = f"a sequence of integers from 1 to {MAX_INT}"
    if least_length:
        wanted = f"at least {least_length} in {wanted}"
    try:
        found = tuple(values)
    except TypeError:
        raise fail(argument, wanted, _shown(values)) from None
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in found)
    if not whole or len(found) < least_length or not all(1 <= int(n) <= MAX_INT for n in found):
        raise fail(argument, wanted, "[" + ", ".join(map(_shown, found)) + "]")
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
        raise fail(argument, f"one of {choices}", _shown(value))
    return value


def check_bool(argument: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise fail(argument, "true or false", _shown(value))
    return value


def check_text(argument: str, value: Any) -> str:
    if not isinstance(value, str):
        raise fail(argument, "a string", _shown(value))
    return value


def check_words(argument: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(word, str) for word in values):
        raise fail(argument, "a list of strings", _shown(values))
    return tuple(values)


def check_memory(argument: str, value: Any) -> None:
    """A tensor whose values lie in memory, row after row: what kernels, and slices, can read."""
    if not isinstance(value, Tensor):
        raise fail(argument, "a torch.Tensor", type(value).__name__)
    if value.layout is not torch.strided or value.is_nested:
        kind = "a nested one" if value.is_nested else f"layout {value.layout}"
        raise fail(argument, "a dense tensor (layout torch.strided)", kind)
    if not _has_memory(value):
        kind = type(value).__name__
        got = f"a {kind} on {value.device} without memory of its own"
        raise fail(argument, "a tensor that holds values", got)


def _has_memory(value: Tensor) -> bool:
    """Not a meta or fake tensor, nor one within a torch.func transform or with a freed storage."""
    if type(value) not in (Tensor, nn.Parameter):
        from torch._subclasses.fake_tensor import FakeTensor

        if isinstance(value, FakeTensor):
            return False
    try:
        return value.data_ptr() != 0 or value.numel() == 0
    except RuntimeError:
        return False


def check_tensor(
    argument: str, value: Any, like: Tensor, shape: tuple[int | None, ...], *, dtypes: Any = None
) -> Tensor:
    """A tensor of ``shape`` (None matches any length) on the parameters' device, of their dtype
    unless told otherwise.
    """
    check_memory(argument, value)
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


def describe(value: Tensor) -> str:
    """float32 [3000, 4], and where it is, unless on the CPU."""
    place = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{place}"


def check_array(
    name: str, value: Any, shape: tuple[int, ...], dtype: Any, *, nan: bool = False
) -> Any:
    """A tensor (of a torch dtype) or an array (of NumPy's) of this kind, of finite numbers, or NaN
    where that is allowed.
    """
    kind: Any = Tensor if isinstance(dtype, torch.dtype) else np.ndarray
    wanted = f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    if not isinstance(value, kind):
        raise fail(name, wanted, type(value).__name__)
    if value.dtype != dtype or tuple(value.shape) != shape:
        got = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        raise fail(name, wanted, got)
    numbers = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    if numbers.dtype.kind == "f" and not np.isfinite(numbers[~np.isnan(numbers) | (not nan)]).all():
        raise fail(name, "finite numbers", "some that are not")
    return value


def check_dtype(argument: str, value: Any) -> None:
    if value not in (None, torch.float32, torch.float64):
        raise fail(argument, "torch.float32 or torch.float64", repr(value))


def check_device(argument: str, value: Any) -> None:
    try:
        torch.device("cpu" if value is None else value)
    except (RuntimeError, TypeError):
        raise fail(argument, "a torch device such as 'cpu' or 'cuda:0'", repr(value)) from None
