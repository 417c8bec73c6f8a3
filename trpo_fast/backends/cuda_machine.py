"""Whether this build's CUDA kernels run on this machine: what was built, what is here, what torch
can use.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch

from .._base import extension
from .support import SERVES, Support, family_support


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


def describe_device(device: dict) -> str:
    """NVIDIA H200 (sm_90)."""
    major, minor = device["capability"]
    return f"{device['name']} (sm_{major}{minor})"


def machine_support() -> Support:
    """Whether any CUDA kernel can run on this machine."""
    if extension.emulating():
        return family_support("cuda") and _emulation_support()
    return _machine_support()


def emulation_library() -> Path:
    """What TRPO_FAST_EMULATE names; for 1, what ``make emulation`` leaves in a checkout."""
    asked = os.environ.get("TRPO_FAST_EMULATE", "")
    if asked != "1":
        return Path(asked)
    checkout = Path(__file__).resolve().parents[2]
    return checkout / "build" / "emulation" / "library" / "libtrpo_fast_emulated.so"


def _emulation_support() -> Support:
    library = emulation_library()
    if library.is_file():
        return SERVES
    return Support(
        f"TRPO_FAST_EMULATE={os.environ['TRPO_FAST_EMULATE']} takes the emulated kernels from "
        f"{library}, which does not exist: make emulation builds it in a checkout; or set "
        "TRPO_FAST_EMULATE to the path of a libtrpo_fast_emulated.so"
    )


@functools.cache
def _machine_support() -> Support:
    """Asked once: the probe takes a tenth of a millisecond."""
    return family_support("cuda") and _device_support() and _torch_support()


def _device_support() -> Support:
    native = extension.module()
    assert native is not None
    archs = native.build_info()["cuda_archs"]
    if not archs:
        return Support(
            "built without CUDA: no working nvcc at install time; "
            "reinstall with TRPO_FAST_CUDA=1 to see what is missing"
        )
    probe = native.cuda_probe()
    if probe["problem"]:
        return Support(str(probe["problem"]))
    if not any(serves(archs, device["capability"]) for device in probe["devices"]):
        found = ", ".join(describe_device(device) for device in probe["devices"])
        return Support(
            f"built for {archs}, which serves none of: {found}; set TRPO_FAST_CUDA_ARCHS"
        )
    return SERVES


def _torch_support() -> Support:
    if torch.version.cuda is None:
        return Support(
            f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch"
        )
    if not torch.cuda.is_available():
        build = f"torch {torch.__version__} (CUDA {torch.version.cuda})"
        return Support(f"{build} finds no usable device")
    return SERVES
