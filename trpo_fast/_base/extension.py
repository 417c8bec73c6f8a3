"""The native half, `trpo_fast._C`: loaded at first use, and if it is absent, the sentence why.

Nothing in this file but ``native`` raises for a missing half.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .._version import __version__
from .reads import may_read

if TYPE_CHECKING:
    import torch

    from .. import _C

    native = _C  # for type checkers; below is how it comes to be

_REBUILD = (
    "install g++ or clang++ and reinstall trpo-fast, with TRPO_FAST_REQUIRE_NATIVE=1 to see what "
    "is missing"
)


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    try:
        native = importlib.import_module("trpo_fast._C")
    except ModuleNotFoundError:
        return (
            None,
            f"built without native code: no C++ compiler served at install time; {_REBUILD}",
        )
    except ImportError as error:
        return None, f"the native code does not load: {error}"
    built = native.build_info()["version"]
    if built != __version__:
        return None, f"the native code is of version {built}, the package of {__version__}; rebuild"
    return native, ""


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """``native``: the extension module; where there is none, a RuntimeError says why."""
        if name != "native":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        loaded, why = _load()
        if loaded is None:
            raise RuntimeError(why)
        return loaded


def module() -> ModuleType | None:
    """The extension module, or None; then `why_missing()` says why."""
    return _load()[0]


def why_missing() -> str:
    """Why there is no extension module, as a sentence; empty when there is one."""
    return _load()[1]


@functools.cache
def warn_of_pure_python() -> None:
    """Say once in a process that PyTorch's operators compute what the kernels would have."""
    warnings.warn(
        f"backend='auto' takes PyTorch's operators, which are slower than the C++ kernels: "
        f"{why_missing()}; backend='reference' asks for them without this warning",
        RuntimeWarning,
        stacklevel=2,
    )


def emulating() -> bool:
    """Whether TRPO_FAST_EMULATE asks for the CUDA kernels to run on the host."""
    return os.environ.get("TRPO_FAST_EMULATE", "0") not in ("", "0")


def asynchronous(device: torch.device) -> bool:
    """Whether the host runs ahead of work on this device, as emulated kernels pretend."""
    return not may_read(device) or emulating()
