"""Builds the emulated kernels: csrc/cuda/**/*.cu compiled by g++ through dev.h, with the runtime.

    python tests/emulation/build.py library    libtrpo_fast_emulated.so, for TRPO_FAST_EMULATE
    python tests/emulation/build.py address    the cases under ASan and UBSan
    python tests/emulation/build.py thread     the cases under TSan, one TSan fiber per CUDA thread
    python tests/emulation/build.py plain      the cases, optimised
    python tests/emulation/build.py memory     the cases, every access counted (memory_report.py)
    python tests/emulation/build.py hardware   the emulator's half of hardware_check.py
    python tests/emulation/build.py ucontext   the primitives' cases without the assembly switch

Prints the path of what it built. Ninja keeps depfiles and command lines, so only what changed is
compiled again. CXX is honoured.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "emulation"
RUNTIME = tuple(
    f"{name}.cpp"
    for name in ("launch", "devices", "scheduler", "switch", "barriers", "warp", "control")
)
FLAGS = (
    f"-std=c++20 -g1 -fPIC -pthread -Wall -Wextra -Wno-unknown-pragmas -fno-strict-aliasing "
    f"-ffp-contract=off -I{HERE} -I{ROOT / 'csrc'}"
).split()
RULES = """
rule compile
  command = $run -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = $run $in -o $out
"""


@dataclass(frozen=True)
class Variant:
    """How one product is compiled; the runtime leaves out what must not instrument it."""

    product: str
    kernel_flags: str = ""
    runtime_flags: str = ""  # "" for none
    link_flags: str = ""
    cases: bool = False
    kernels: bool = False
    shares: str = ""  # the variant whose product is linked in


# Outlined checks, and none for null pointers and pointer arithmetic (ASan sees what comes of
# those): half the compile time.
_ASAN = (
    "-Og -fsanitize=address,undefined -fno-sanitize=null,pointer-overflow,object-size,vptr "
    "-fno-sanitize-recover=all -fno-omit-frame-pointer "
    "--param asan-instrumentation-with-call-threshold=0"
)
VARIANTS = {
    "library": Variant(
        "libtrpo_fast_emulated.so", "-O1", "-O2", "-shared -fvisibility=hidden", kernels=True
    ),
    "address": Variant("cases_address", _ASAN, _ASAN, _ASAN, cases=True, kernels=True),
    # Kernels and cases that report every access: to TSan in "thread", to memory.cpp in "memory".
    "traced": Variant(
        "traced.o", "-Og -fsanitize=thread -Wno-tsan", "", "-r -nostdlib", cases=True, kernels=True
    ),
    "thread": Variant(
        "cases_thread", "", "-O2 -DTRPO_EMULATE_TSAN", "-fsanitize=thread", shares="traced"
    ),
    "memory": Variant("cases_memory", "", "-O2", shares="traced"),
    "primitives": Variant("primitives.o", "-O2", "", "-r -nostdlib", cases=True),
    "plain": Variant("cases_plain", "", "-O2", shares="primitives"),
    "ucontext": Variant("cases_ucontext", "", "-O2 -DTRPO_EMULATE_UCONTEXT", shares="primitives"),
    "hardware": Variant("hardware_check", "", "-O1 -g"),
}


def sources(variant: Variant) -> dict[Path, str]:
    """Every source of a variant with the flags that are its own."""
    kernels = sorted((ROOT / "csrc" / "cuda").rglob("*.cu")) if variant.kernels else []
    cases = sorted(HERE.glob("cases*.cpp")) if variant.cases else []
    if cases and kernels:
        cases += sorted(HERE.glob("kernel_*.cpp"))
    found = {path: f"{variant.kernel_flags} -x c++" for path in kernels}
    found |= {path: variant.kernel_flags for path in cases}
    if variant.runtime_flags:
        found |= {HERE / name: variant.runtime_flags for name in RUNTIME}
    if variant is VARIANTS["hardware"]:
        found |= {HERE / "hardware_check.cu": "-O1 -x c++"}
    if variant is VARIANTS["memory"]:
        found |= {HERE / "memory.cpp": "-O2"}
    return found


Units = dict[Path, list[str]]  # sources and the flags of each


def write_ninja(folder: Path, product: str, units: Units, link: list[str], more: list[Path]):
    compiler = shlex.split(os.environ.get("CXX", "g++"))

    def quote(command: list[str]) -> str:
        return shlex.join(command).replace("$", "$$")

    def escape(path: Path) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    text, objects = [RULES], [escape(path) for path in more]
    for source, flags in units.items():
        objects.append(f"{source.stem}{source.suffix}.o")
        run = quote([*compiler, *flags])
        text.append(f"build {objects[-1]}: compile {escape(source)}\n  run = {run}\n")
    run = quote([*compiler, *link])
    text.append(f"build {product}: link {' '.join(objects)}\n  run = {run}\n")
    (folder / "build.ninja").write_text("".join(text))


def find_ninja() -> str:
    if found := shutil.which("ninja"):
        return found
    beside = Path(sys.executable).with_name("ninja")
    if beside.exists():
        return str(beside)
    raise FileNotFoundError("no ninja found: pip install ninja")


def available() -> bool:
    """Whether this machine can build the emulator at all."""
    try:
        find_ninja()
    except FileNotFoundError:
        return False
    return shutil.which(shlex.split(os.environ.get("CXX", "g++"))[0]) is not None


def make(
    folder: Path, product: str, units: Units, link: list[str], more: list[Path] | None = None
) -> Path:
    """Compiles the units and links them with ``more``; a second process waits for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_ninja(folder, product, units, link, more or [])
        command = [find_ninja(), "-C", str(folder), "-j", os.environ.get("MAX_JOBS", "2")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"building {product} failed:\n{done.stdout}{done.stderr}")
    return folder / product


def build(name: str) -> Path:
    """The path of an up-to-date product; raises RuntimeError with the compiler's words."""
    variant = VARIANTS[name]
    units = {path: [*FLAGS, *flags.split()] for path, flags in sources(variant).items()}
    link = ["-pthread", *variant.link_flags.split()]
    more = [build(variant.shares)] if variant.shares else []
    return make(BUILD / name, variant.product, units, link, more)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in VARIANTS:
        sys.exit(__doc__)
    print(build(sys.argv[1]))
