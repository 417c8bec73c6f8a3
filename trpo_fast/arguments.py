"""Checks of arguments that need no knowledge of policies: numbers, counts, choices, tensors.

A sentence reads "argument: expected ..., got ...". What a policy and its batch must be to each
other is in checks.py, which has these names as well.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def fail(argument: str, expected: str, got: object) -> ValueError:
    return ValueError(f"{argument}: expected {expected}, got {got}")


def check_number(
    argument: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
) -> float:
    """A finite real number with above < value, least <= value, value < below."""
    wanted = "a finite number"
    if above > -math.inf:
        wanted += f" above {above:g}"
    if least > -math.inf:
        wanted += f" of at least {least:g}"
    if below < math.inf:
        wanted += f" below {below:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise fail(argument, wanted, f"{value!r} ({type(value).__name__})")
    number = float(value)
    if not math.isfinite(number) or not above < number < below or number < least:
        raise fail(argument, wanted, value)
    return number


def check_count(argument: str, value: Any, *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise fail(argument, f"an integer of at least {least}", repr(value))
    return int(value)


def check_counts(argument: str, values: Any, *, least_length: int = 0) -> tuple[int, ...]:
    """Positive integers in a sequence; NumPy's count."""
    wanted = "a sequence of integers of at least 1"
    if least_length:
        wanted = f"at least {least_length} in {wanted}"
    try:
        found = tuple(values)
    except TypeError:
        raise fail(argument, wanted, repr(values)) from None
    good = all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1 for n in found)
    if not good or len(found) < least_length:
        raise fail(argument, wanted, repr(values))
    return tuple(int(n) for n in found)


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
