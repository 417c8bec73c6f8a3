"""The native half, `trpo_fast._C`: loaded at first use, and if it is absent, the sentence why.

Also answers which backends can serve here. Nothing in this file raises for a missing half.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .._version import __version__

if TYPE_CHECKING:
    import torch

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


def module() -> ModuleType | None:
    """The extension module, or None; then `problem()` says why."""
    return _load()[0]


def problem() -> str:
    """Why there is no extension module, as a sentence; empty when there is one."""
    return _load()[1]


@functools.cache
def warn_of_pure_python() -> None:
    """Say once in a process that PyTorch's operators compute what the kernels would have."""
    warnings.warn(
        f"backend='auto' takes PyTorch's operators, which are slower than the C++ kernels: "
        f"{problem()}; backend='reference' asks for them without this warning",
        RuntimeWarning,
        stacklevel=2,
    )


def emulating() -> bool:
    """Whether TRPO_FAST_EMULATE asks for the CUDA kernels to run on the host."""
    return os.environ.get("TRPO_FAST_EMULATE", "0") not in ("", "0")


def emulation_library() -> Path:
    """What TRPO_FAST_EMULATE names; for 1, what ``make emulation`` leaves in a checkout."""
    asked = os.environ.get("TRPO_FAST_EMULATE", "")
    if asked != "1":
        return Path(asked)
    checkout = Path(__file__).resolve().parents[2]
    return checkout / "build" / "emulation" / "library" / "libtrpo_fast_emulated.so"


def _emulated() -> str:
    library = emulation_library()
    if library.is_file():
        return "ok"
    return (
        f"TRPO_FAST_EMULATE={os.environ['TRPO_FAST_EMULATE']} takes the emulated kernels from "
        f"{library}, which does not exist: make emulation builds it in a checkout; or set "
        "TRPO_FAST_EMULATE to the path of a libtrpo_fast_emulated.so"
    )


def asynchronous(device: torch.device) -> bool:
    """Whether the host runs ahead of work on this device, as emulated kernels pretend."""
    return device.type != "cpu" or emulating()


def _runs(arch: str, number: int) -> bool:
    name = arch.removesuffix("+PTX")
    base = int(name.rstrip("af"))
    if name.endswith("a"):
        return number == base
    if number // 10 == base // 10 and number >= base:
        return True
    return arch.endswith("+PTX") and not name.endswith("f") and number >= base


def serves(archs: str, capability: tuple[int, int]) -> bool:
    """Whether kernels built for archs ("80;90a;100+PTX") run on a device of this capability.

    sm_XY runs on its own major version from minor Y on; PTX also on everything newer; an `a`
    architecture on its own alone.
    """
    number = capability[0] * 10 + capability[1]
    return any(_runs(arch, number) for arch in archs.split(";") if arch)


def _cpu() -> str:
    native, why = _load()
    if native is None:
        return why
    if "cpu" not in native.families:
        return "this build contains no CPU kernels"
    try:
        native.selected_isa()
    except ValueError as error:
        return str(error)
    return "ok"


def _cuda() -> str:
    native, why = _load()
    if native is None:
        return why
    if "cuda" not in native.families:
        return "this build contains no CUDA kernels"
    if emulating():
        return _emulated()
    archs = native.build_info()["cuda_archs"]
    if not archs:
        return (
            "built without CUDA: no working nvcc at install time; "
            "reinstall with TRPO_FAST_CUDA=1 to see what is missing"
        )
    probe = native.cuda_probe()
    if probe["problem"]:
        return str(probe["problem"])
    if not any(serves(archs, device["capability"]) for device in probe["devices"]):
        found = ", ".join(describe_device(device) for device in probe["devices"])
        return f"built for {archs}, which serves none of: {found}; set TRPO_FAST_CUDA_ARCHS"
    return _torch_cuda()


def _torch_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable device"
    return "ok"


def describe_device(device: dict) -> str:
    """NVIDIA H200 (sm_90)."""
    major, minor = device["capability"]
    return f"{device['name']} (sm_{major}{minor})"


_ANSWERS = {"reference": lambda: "ok", "autograd": lambda: "ok", "cpu": _cpu, "cuda": _cuda}


def missing(backend: str) -> str | None:
    """The sentence why a backend cannot serve on this machine; None if it can."""
    answer = _ANSWERS[backend]()
    return None if answer == "ok" else answer


def availability() -> dict[str, str]:
    """Backend name -> "ok", or the sentence why it cannot serve on this machine."""
    return {backend: missing(backend) or "ok" for backend in _ANSWERS}
