"""The CPU core as it is built: nothing leaks out of an instruction-set unit, and the whole core,
acting and the critic's fit are clean under AddressSanitizer, UndefinedBehaviorSanitizer and
ThreadSanitizer.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from sysconfig import get_config_var

import pytest
from emulation.build import available, make
from limits import HANGS

ROOT = Path(__file__).resolve().parents[2]
CXX = shlex.split(os.environ.get("CXX", "")) or ["g++"]
FLAGS = "-std=c++20 -fno-math-errno -fno-trapping-math -ffp-contract=fast -pthread".split()
FLAGS.append(f"-I{ROOT}/csrc")
ISA_FLAGS = {
    "isa_base": [],
    "isa_avx2": ["-march=x86-64-v3"],
    "isa_avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "isa_amx": ["-march=x86-64-v4", "-mamx-tile", "-mamx-bf16"],
}
SYMBOLS = {unit: f"trpo_fast_kernels_{unit.removeprefix('isa_')}" for unit in ISA_FLAGS}
SYMBOLS["isa_amx"] = "trpo_fast_replace_products_amx"
# Outlined checks, and none of null pointers and pointer arithmetic (ASan sees what comes of those):
# a third of the compile time.
SANITIZERS = {
    "asan+ubsan": (
        "-fsanitize=address,undefined -fno-sanitize-recover=all "
        "-fno-sanitize=null,pointer-overflow,object-size,vptr "
        "--param asan-instrumentation-with-call-threshold=0"
    ),
    "tsan": "-fsanitize=thread",
}

pytestmark = [
    pytest.mark.skipif(shutil.which(CXX[0]) is None, reason=f"no compiler {CXX[0]}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the ISA units are for x86-64"),
]


def object_of(unit: str, folder: Path) -> Path:
    """What setup.py made, or if that is not there or older than the sources, a fresh one."""
    name = f"native-{get_config_var('SOABI')}/cpu/kernels/{unit}.cpp.o"
    built, linked = ROOT / "build" / name, next(ROOT.glob("trpo_fast/_C.*.so"), None)
    sources = [*ROOT.glob("csrc/cpu/**/*.*"), *ROOT.glob("csrc/shared/*")]
    newest = max(path.stat().st_mtime for path in sources)
    if built.exists() and linked is not None and linked.stat().st_mtime > newest:
        return built
    source = f"{ROOT}/csrc/cpu/kernels/{unit}.cpp"
    command = [*CXX, *FLAGS, "-O3", "-fPIC", *ISA_FLAGS[unit], "-c", source]
    subprocess.run([*command, "-o", str(folder / "unit.o")], check=True)
    return folder / "unit.o"


@pytest.mark.parametrize("unit", ISA_FLAGS)
def test_isa_unit_exports_its_table_only(unit: str, tmp_path: Path) -> None:
    """A weak or shared symbol of the AVX-512 unit could be what an old CPU ends up calling."""
    command = ["nm", str(object_of(unit, tmp_path))]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in listing.splitlines()]
    shared = [name for kind, name in symbols if kind in "TDBRVWuvw"]
    assert shared == [SYMBOLS[unit]]
    wanted = {name for kind, name in symbols if kind == "U"}
    assert not {name for name in wanted if name.startswith("_Z")}


@pytest.mark.skipif(not available(), reason="no ninja")
@pytest.mark.parametrize("part", ["core", "learner"])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_clean(sanitizer: str, part: str) -> None:
    flags = [*FLAGS, "-Og", "-g1", *SANITIZERS[sanitizer].split()]
    sources = [*ROOT.glob("csrc/cpu/**/*.cpp"), *ROOT.glob("tests/native/sanitized*.cpp")]
    units = {source: [*flags, *ISA_FLAGS.get(source.stem, [])] for source in sorted(sources)}
    program = make(ROOT / "build" / "sanitized" / sanitizer, "sanitized", units, flags)
    result = subprocess.run([program, part], capture_output=True, text=True, timeout=HANGS)
    assert result.stdout.strip() == "ok", result.stdout[-2000:] + result.stderr[-4000:]
    assert not result.stderr
