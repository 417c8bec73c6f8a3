"""The build: what it rebuilds, what it packages, and what it does without a compiler.

Builds run in a small tree with the real setup.py and package but four short C++ files, so that
their time does not depend on the kernels. The last tests look at the real native half.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from limits import HANGS

from trpo_fast._base import extension

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "bindings/module.cpp": """#include <Python.h>
        #include "cpu/shared.h"
        #ifdef TRPO_FAST_CUDA_ARCHS
        int launch();
        #else
        int launch() { return 0; }
        #endif
        static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C"};
        PyMODINIT_FUNC PyInit__C() {
          PyObject* made = PyModule_Create(&module);
          PyModule_AddIntConstant(made, "answer", shared() + lonely() + launch());
          return made;
        }""",
    "cpu/shared.h": "int shared(); int lonely();",
    "cpu/shared.cpp": '#include "cpu/shared.h"\nint shared() { return 40; }',
    "cpu/lonely.cpp": "int lonely() { return 2; }",
    "cpu/kernels/isa_avx2.cpp": "static_assert(__AVX2__);",
}
KERNEL = {
    "cuda/kernel.cu": '#include "cuda/kernel.cuh"\nint launch() { return kAnswer - 42; }',
    "cuda/kernel.cuh": "constexpr int kAnswer = 42;\n__global__ void kernel() {}",
}
# What the source archive carries beside the code.
PAPERS = ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/architecture.md")
# An editable install of the package would lend its native half to the unpacked wheel.
ASK_BACKENDS = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import trpo_fast
print(trpo_fast.backends())
"""
# Asked by distribution: looking up the module pip turns setuptools' distutils off in this process.
INSTALLED = {str(found.metadata["Name"]).lower() for found in importlib.metadata.distributions()}
needs_tools = pytest.mark.skipif(
    not {"pip", "setuptools", "pybind11", "ninja"} <= INSTALLED
    or not (shutil.which("g++") or shutil.which("clang++")),
    reason="building needs a C++ compiler, pip, setuptools, pybind11 and ninja",
)
needs_binutils = pytest.mark.skipif(
    not (shutil.which("nm") and shutil.which("readelf")), reason="no nm or readelf on PATH"
)
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc on PATH")
needs_sources = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no source tree")
pytestmark = [needs_sources, pytest.mark.slow]


def environment(**changes: str) -> dict[str, str]:
    """The environment without what steers a build, then the changes."""
    steering = re.compile(r"TRPO_FAST_|CXX|LDFLAGS|NVCC|PYTHONPATH|MAKE|MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not steering.match(name)}
    return {**kept, "TRPO_FAST_CUDA": "0", **changes}


def run(arguments: list[str], folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, output captured as one text in stdout."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(**changes),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=HANGS,
    )


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The package with small native sources, in a path with a space."""
    folder = tmp_path / "a tree"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "trpo_fast", folder / "trpo_fast", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", *PAPERS):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write(folder / "csrc", SOURCES)
    (folder / "csrc" / "cuda").mkdir()
    shutil.copy(ROOT / "csrc/cuda/toolkit.py", folder / "csrc" / "cuda")
    return folder


def rebuilt(folder: Path, **changes: str) -> set[str]:
    """Build in place; the files that were written again."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob("build/native-*/**/*.o")}
    done = run(["setup.py", "-q", "build_ext", "--inplace"], folder, **changes)
    assert done.returncode == 0, done.stdout
    after = {path: path.stat().st_mtime_ns for path in folder.glob("build/native-*/**/*.o")}
    return {path.name for path, time in after.items() if before.get(path) != time}


def wheel(folder: Path, **changes: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Build a wheel without network; the names of its files."""
    command = "-m pip wheel . -w wheels --no-deps --no-build-isolation --no-index -v".split()
    done = run(command, folder, **changes)
    names = [
        name for made in folder.glob("wheels/*.whl") for name in zipfile.ZipFile(made).namelist()
    ]
    return done, names


def member(archive: Path, ending: str) -> str:
    """The text of the one file of a wheel whose name ends so."""
    with zipfile.ZipFile(archive) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(ending)]
        return opened.read(name).decode()


@needs_tools
def test_rebuilds_what_changed_and_no_more(tree: Path) -> None:
    everything = {"module.cpp.o", "shared.cpp.o", "lonely.cpp.o", "isa_avx2.cpp.o"}
    assert rebuilt(tree) == everything
    assert rebuilt(tree) == set()
    (tree / "csrc/cpu/shared.h").write_text("int shared(); int lonely(); // touched")
    assert rebuilt(tree) == {"module.cpp.o", "shared.cpp.o"}
    (tree / "csrc/cpu/lonely.cpp").write_text("int lonely() { return 3; }")
    assert rebuilt(tree) == {"lonely.cpp.o"}
    found = run(["-c", "from trpo_fast import _C; print(_C.answer)"], tree)
    assert found.stdout.split()[-1] == "43"
    assert rebuilt(tree, CXXFLAGS="-g1") == everything
    (tree / "trpo_fast/_version.py").write_text('__version__ = "9.9"')
    assert rebuilt(tree, CXXFLAGS="-g1") == {"module.cpp.o"}


@needs_tools
@needs_nvcc
def test_rebuilds_kernels(tree: Path) -> None:
    write(tree / "csrc", KERNEL)
    cuda = {"TRPO_FAST_CUDA": "1", "TRPO_FAST_CUDA_ARCHS": "90"}
    assert "kernel.cu.o" in rebuilt(tree, **cuda)
    (tree / "csrc/cuda/kernel.cuh").write_text(KERNEL["cuda/kernel.cuh"] + "// touched")
    assert rebuilt(tree, **cuda) == {"kernel.cu.o"}
    cuda["TRPO_FAST_CUDA_ARCHS"] = "80,90+PTX"
    assert rebuilt(tree, **cuda) == {"kernel.cu.o", "module.cpp.o"}


@needs_tools
@needs_nvcc
def test_another_python_compiles_its_bindings_alone(tree: Path) -> None:
    write(tree / "csrc", KERNEL)
    before = {"TRPO_FAST_CUDA": "prebuilt", "NVCC": "/nonexistent"}
    command = ["setup.py", "-q", "build_ext", "--inplace"]
    assert "no build with nvcc has left its objects in" in run(command, tree, **before).stdout
    assert "kernel.cu.o" in rebuilt(tree, TRPO_FAST_CUDA="1", TRPO_FAST_CUDA_ARCHS="90")
    for folder in tree.glob("build/native-*"):
        shutil.rmtree(folder)  # another Python has none of its own
    made = rebuilt(tree, **before)
    assert "module.cpp.o" in made and "kernel.cu.o" not in made
    found = run(["-c", "from trpo_fast import _C; print(_C.answer)"], tree)
    assert found.stdout.split()[-1].isdigit()
    (tree / "csrc/cuda/kernel.cuh").write_text(KERNEL["cuda/kernel.cuh"] + "// touched")
    assert "are those of other sources" in run(command, tree, **before).stdout


@needs_tools
def test_wheel_with_a_compiler(tree: Path) -> None:
    done, names = wheel(tree, TRPO_FAST_REQUIRE_NATIVE="1")
    assert done.returncode == 0, done.stdout
    assert any(re.fullmatch(r"trpo_fast/_C\..*so", name) for name in names)
    assert {"trpo_fast/py.typed", "trpo_fast/_C.pyi"} <= set(names)
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"trpo_fast"}
    metadata = member(next(tree.glob("wheels/*.whl")), "METADATA")
    assert "License-Expression: MIT" in metadata.splitlines()
    assert "License-File: LICENSE" in metadata.splitlines()
    assert "the trpo_fast authors" in member(next(tree.glob("wheels/*.whl")), "LICENSE")


@needs_tools
def test_wheel_without_a_compiler_is_pure_python(tree: Path) -> None:
    write(tree, {"trpo_fast/_C.so": "left by an earlier build"})
    done, names = wheel(tree, CXX="/nonexistent")
    assert done.returncode == 0, done.stdout
    assert "installing pure Python: no /nonexistent" in done.stdout
    assert not [name for name in names if name.endswith(".so")]
    zipfile.ZipFile(next(tree.glob("wheels/*.whl"))).extractall(tree / "unpacked")
    found = run(["-c", ASK_BACKENDS], tree / "unpacked")
    assert "'reference': 'ok'" in found.stdout
    assert "'cpu': 'built without native code" in found.stdout


@needs_tools
def test_a_build_without_a_compiler_ends_in_a_line_that_says_so(tree: Path) -> None:
    done = run(["setup.py", "bdist_wheel"], tree, CXX="/nonexistent")
    assert done.returncode == 0, done.stdout
    said = (
        "trpo_fast: installing pure Python: no /nonexistent (see CXX); all of it works, but slower"
    )
    assert done.stdout.splitlines()[-1] == said


FAILURES = {
    "no compiler": (
        {"CXX": "/nonexistent", "TRPO_FAST_REQUIRE_NATIVE": "1"},
        "no native code: no /nonexistent",
    ),
    "no nvcc": ({"NVCC": "/nonexistent", "TRPO_FAST_CUDA": "1"}, "CUDA=1: no /nonexistent"),
    "mode": ({"TRPO_FAST_CUDA": "yes"}, "expected 0, 1, auto or prebuilt, got 'yes'"),
    "bad source": ({"CXXFLAGS": "-Dshared=3", "TRPO_FAST_REQUIRE_NATIVE": "1"}, "no native code"),
}


@needs_tools
@pytest.mark.parametrize("changes, message", FAILURES.values(), ids=FAILURES)
def test_wheel_fails_when_asked_to(tree: Path, changes: dict[str, str], message: str) -> None:
    done, names = wheel(tree, **changes)
    assert done.returncode != 0
    assert message in done.stdout
    assert not names


@needs_tools
@needs_nvcc
def test_bad_architecture_is_named(tree: Path) -> None:
    done, _ = wheel(tree, TRPO_FAST_CUDA="auto", TRPO_FAST_CUDA_ARCHS="90;ninety")
    assert done.returncode != 0
    assert "TRPO_FAST_CUDA_ARCHS: expected such as 80,90;100+PTX, got 'ninety'" in done.stdout


@needs_tools
def test_sdist_is_complete(tree: Path) -> None:
    shutil.copytree(ROOT / "csrc", tree / "csrc", dirs_exist_ok=True)
    measured = ("benchmarks/results/xeon/cg.json", "benchmarks/pictures/rules.png")
    write(tree, {"benchmarks/plot.py": "", **dict.fromkeys(measured, "")})
    done = run(["setup.py", "-q", "sdist"], tree)
    assert done.returncode == 0, done.stdout
    with tarfile.open(next(tree.glob("dist/*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {path.relative_to(tree).as_posix() for path in (tree / "csrc").rglob("*.*")}
    wanted |= {path.relative_to(tree).as_posix() for path in (tree / "trpo_fast").rglob("*.py")}
    files = ("trpo_fast/py.typed", "trpo_fast/_C.pyi", "benchmarks/plot.py", *PAPERS)
    wanted |= {"setup.py", "pyproject.toml", *files}
    assert wanted - packed == set()
    assert packed.isdisjoint(measured)


def test_setup_is_short() -> None:
    assert len((ROOT / "setup.py").read_text().splitlines()) <= 150


@pytest.mark.skipif(not shutil.which("make"), reason="no make on PATH")
def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    declared = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    shown = subprocess.run(["make"], cwd=ROOT, env=environment(), capture_output=True, text=True)
    listed = re.findall(r"^  make ([\w-]+) +\S", shown.stdout, re.MULTILINE)
    assert declared
    assert set(listed) == set(declared[1].split())


@needs_binutils
def test_native_half_links_nothing_it_should_not() -> None:
    native = extension.module()
    if native is None:
        pytest.skip(extension.why_missing())
    assert native.__file__
    said = subprocess.run(["readelf", "-d", native.__file__], capture_output=True, text=True)
    needed = re.findall(r"NEEDED.*\[(.*?)\.so", said.stdout)
    allowed = {"libstdc++", "libgcc_s", "libc", "libm", "libpthread", "libdl", "librt"}
    assert {name for name in needed if not name.startswith("ld-linux")} <= allowed
    exported = subprocess.run(["nm", "-D", "--defined-only", native.__file__], capture_output=True)
    names = {line.split()[-1] for line in exported.stdout.decode().splitlines()}
    assert "PyInit__C" in names
    assert not [name for name in names if re.search(r"trpo|cuda|pybind", name, re.IGNORECASE)]


ISA_UNITS = sorted(path.stem for path in ROOT.glob("csrc/cpu/kernels/isa_*.cpp"))


@needs_binutils
@pytest.mark.parametrize("unit", ISA_UNITS)
def test_isa_units_have_no_weak_symbols(unit: str) -> None:
    found = sorted(ROOT.glob(f"build/native-*/cpu/kernels/{unit}.cpp.o"))
    if not found:
        pytest.skip(f"{unit} was not built in this tree")
    symbols = subprocess.run(["nm", *found], capture_output=True, text=True).stdout
    assert re.findall(r"^.* [WVvwu] .*$", symbols, re.MULTILINE) == []


def test_import_is_light() -> None:
    """Beside torch the package loads its first five folders, and nothing of anybody else."""
    code = """
import sys, time, torch
before, start = {*sys.modules}, time.process_time()
import trpo_fast
print(time.process_time() - start, *sorted({*sys.modules} - before))
"""
    seconds, *modules = run(["-c", code], ROOT).stdout.split()
    assert float(seconds) < 0.5  # of processor time, so that a busy machine does not matter
    assert {name.partition(".")[0] for name in modules} <= {"trpo_fast", *sys.stdlib_module_names}
    modules.remove("trpo_fast.heads")  # the name that pickled policies know
    folders = {name.split(".")[1] for name in modules if name.startswith("trpo_fast.")}
    assert folders - {"_version", "_C"} == {"_base", "policy", "core", "backends", "updates"}
