"""Every header and include file of csrc compiles alone: none depends on what stood before it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from sysconfig import get_path

import pytest
from limits import HANGS

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
CXX = shlex.split(os.environ.get("CXX", "")) or ["g++"]
# kernels.inc is a whole unit, for the isa_*.cpp to include once.
HEADERS = sorted(
    path
    for suffix in ("h", "inc", "cuh")
    for path in CSRC.rglob(f"*.{suffix}")
    if path.name != "kernels.inc"
)
# What the units of an instruction set define for the headers that need it.
ISA = "-DTRPO_ISA_VECTOR=16 -DTRPO_ISA_PANEL=64 -DTRPO_ISA_TILE_ROWS=6 -march=x86-64-v4".split()
# CUDA's stand-in on the host, where kernels are emulated.
EMULATION = [f"-I{ROOT / 'tests' / 'emulation'}", f"-I{CSRC / 'cuda'}"]

pytestmark = [
    pytest.mark.skipif(shutil.which(CXX[0]) is None, reason=f"no compiler {CXX[0]}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="some headers are for x86-64"),
]


def alone(text: str, folder: Path) -> str:
    """What the compiler says of a unit with this text; empty if it has nothing to say."""
    unit = folder / "alone.cpp"
    unit.write_text(text)
    pybind11 = pytest.importorskip("pybind11")
    includes = [f"-I{CSRC}", f"-I{pybind11.get_include()}", f"-I{get_path('include')}"]
    command = [*CXX, "-std=c++20", "-fsyntax-only", *includes, *EMULATION, *ISA, "-mamx-tile"]
    done = subprocess.run(
        [*command, "-mamx-bf16", str(unit)], capture_output=True, text=True, timeout=HANGS
    )
    return done.stderr


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: str(path.relative_to(CSRC)))
def test_compiles_alone(path: Path, tmp_path: Path) -> None:
    assert alone(f'#include "{path.relative_to(CSRC)}"\n', tmp_path) == ""


def test_a_header_that_leans_on_another_is_seen(tmp_path: Path) -> None:
    (tmp_path / "leaning.h").write_text("#pragma once\ninline int64_t one() { return 1; }\n")
    assert "int64_t" in alone(f'#include "{tmp_path / "leaning.h"}"\n', tmp_path)


@pytest.mark.parametrize("core", ["cpu", "cuda"])
def test_each_core_has_a_namespace_of_its_own(core: str) -> None:
    """Both have a Plan, a Block and a RowSet: two of a name in one namespace are undefined."""
    for path in (CSRC / core).rglob("*"):
        if path.is_file():
            opened = set(re.findall(r"^namespace (trpo_fast\S*) {$", path.read_text(), re.M))
            assert opened <= {f"trpo_fast::{core}"}, path
