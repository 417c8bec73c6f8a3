"""The CPU core as it is built: nothing leaks out of an instruction-set unit, and drivers over the
whole core, acting and the critic's fit are clean under AddressSanitizer, UndefinedBehaviorSanitizer
and ThreadSanitizer.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CXX = shlex.split(os.environ.get("CXX", "")) or ["g++"]
FLAGS = "-std=c++20 -fno-math-errno -fno-trapping-math -ffp-contract=fast -pthread".split()
ISA_FLAGS = {
    "isa_base": [],
    "isa_avx2": ["-march=x86-64-v3"],
    "isa_avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "isa_amx": ["-march=x86-64-v4", "-mamx-tile", "-mamx-bf16"],
}
SYMBOLS = {unit: f"trpo_fast_kernels_{unit.removeprefix('isa_')}" for unit in ISA_FLAGS}
SYMBOLS["isa_amx"] = "trpo_fast_replace_products_amx"
SANITIZERS = {
    "asan+ubsan": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["-fsanitize=thread"],
}

pytestmark = [
    pytest.mark.skipif(shutil.which(CXX[0]) is None, reason=f"no compiler {CXX[0]}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the ISA units are for x86-64"),
]


def compile_unit(source: Path, built: Path, flags: list[str]) -> Path:
    target = built / f"{source.stem}.o"
    command = [*CXX, *FLAGS, *flags, *ISA_FLAGS.get(source.stem, []), f"-I{ROOT}/csrc"]
    subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
    return target


@pytest.mark.parametrize("unit", ISA_FLAGS)
def test_isa_unit_exports_its_table_only(unit: str, tmp_path: Path) -> None:
    """A weak or shared symbol of the AVX-512 unit could be what an old CPU ends up calling."""
    built = compile_unit(ROOT / f"csrc/cpu/{unit}.cpp", tmp_path, ["-O2", "-fPIC"])
    listing = subprocess.run(["nm", str(built)], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in listing.splitlines()]
    shared = [name for kind, name in symbols if kind in "TDBRVWuvw"]
    assert shared == [SYMBOLS[unit]]
    wanted = {name for kind, name in symbols if kind == "U"}
    assert not {name for name in wanted if name.startswith("_Z")}


@pytest.fixture(scope="module", params=SANITIZERS)
def core(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], list[Path]]:
    """The flags of a sanitizer, and the core's objects compiled with them."""
    flags = ["-O1", "-g", *SANITIZERS[request.param]]
    built, sources = tmp_path_factory.mktemp("core"), sorted(ROOT.glob("csrc/cpu/*.cpp"))
    with ThreadPoolExecutor(2) as pool:
        return flags, list(pool.map(lambda source: compile_unit(source, built, flags), sources))


@pytest.mark.parametrize("driver", ["core_driver", "learner_driver"])
def test_clean(driver: str, core: tuple[list[str], list[Path]], tmp_path: Path) -> None:
    flags, objects = core
    main = compile_unit(ROOT / f"tests/native/{driver}.cpp", tmp_path, flags)
    program = tmp_path / "driver"
    command = [*CXX, *FLAGS, *flags, *map(str, objects), str(main), "-o", str(program)]
    subprocess.run(command, check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "ok", result.stdout[-2000:] + result.stderr[-4000:]
    assert not result.stderr
