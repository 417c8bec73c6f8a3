"""The steps of gpu_check.py: what each runs, for how long, and why it cannot run here, if so."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESIDENT, WIDE = ("C1", "C2", "cartpole"), ("C3", "C4", "C5")  # cases, by who serves them
QUICK = ("sb3", "sb3_replica", "double_backward", "gauss_newton", "gauss_newton_graph")
GRAPHED = ("gauss_newton_graph",)
COMPILED = (*GRAPHED, "gauss_newton_compile", "func_compile", "jax_jit")
OURS = ("cuda_graph", "cuda")  # eager calls beside replayed ones
PRECISIONS = ("fp32", "fp16x3")  # of the resident kernels
WIDE_PRECISIONS = ("fp16x3", "bf16x3", "tf32", "fp32")
# On the tiles of the device, of the kernels that C4 needs too, and recorded.
FEW_WIDE_TESTS = "fp16x3 and (widths and gaussian or equal_bits) or solves_are_replays"
NCU = {"fp32": "Variation<", "fp16x3": "SplitVariation<"}  # of the kernels' names


@dataclass
class Step:
    """One command. ``skip`` is the reason why it cannot run here, if there is one."""

    name: str
    command: list[str]
    limit: float = 120.0
    skip: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    # A file, and the cases and precisions whose rows it must have.
    rows: tuple[Path, tuple[str, ...], tuple[str, ...]] | None = None


def architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}"


@dataclass(frozen=True)
class Place:
    """Where steps run and what they leave: ``missing`` says why there is no device."""

    rehearse: bool
    results: Path
    scratch: Path
    python: str = sys.executable

    @property
    def missing(self) -> str | None:
        return "no device: this is a rehearsal" if self.rehearse else None

    @property
    def arch(self) -> str:
        return "90" if self.rehearse else architecture()

    @property
    def environment(self) -> dict[str, str]:
        """Compiled Triton kernels are kept with what else was built."""
        if self.rehearse:
            return {"TRPO_FAST_EMULATE": "1", "TRITON_INTERPRET": "1"}
        return {"TRITON_CACHE_DIR": str(ROOT / "build" / "triton")}


def steps(plan: str, place: Place) -> list[Step]:
    return [_build(place), *{"first": _first, "full": _full}[plan](place)]


def _build(place: Place) -> Step:
    """The build that ships, its CUDA objects from an earlier one where there is one."""
    kept = (ROOT / "build" / "cuda" / "about.json").exists()
    mode = "0" if place.rehearse else "prebuilt" if kept else "1"
    command = [place.python, "setup.py", "build_ext", "--inplace"]
    return Step("build", command, 240, env={"TRPO_FAST_CUDA": mode})


def _first(place: Place) -> list[Step]:
    return [
        Step(
            "emulator against hardware",
            [place.python, "-m", "tests.emulation.hardware_check", "--arch", f"sm_{place.arch}"],
            25,
            place.missing,
        ),
        *[_bench(place, "cg", (case,), GRAPHED, 30, "0.5", OURS) for case in RESIDENT[:2]],
        _bench(place, "cg", WIDE[1:2], GRAPHED, 60, "0.5", OURS, ("fp16x3",)),
        _tests(place, "wide nets", ["tests/wide", "-k", FEW_WIDE_TESTS], 45),
        _tests(place, "split precision", _split_tests(place), 30),
        _bench(place, "update", RESIDENT[:1], ("sb3_replica",), 20, "0.5", OURS),
    ]


def _full(place: Place) -> list[Step]:
    compiled = [_compiled(place, case) for case in RESIDENT]
    return [
        _tests(place, "tests", _cuda_tests(place), 120),
        _tests(place, "recorded updates", ["tests/updates/test_captured.py", "-k", "cuda"], 40),
        _bench(place, "cg", RESIDENT, QUICK, 60),
        _bench(place, "update", RESIDENT, QUICK[:2], 60),
        _compiled_wide(place),
        *[_bench(place, "cg", (c,), GRAPHED, 50, "0.5", OURS, WIDE_PRECISIONS) for c in WIDE],
        _wide_tests(place),
        *[_ncu(place, precision) for precision in PRECISIONS],
        *_primitives(place),
        _sanitizer(place),
        *compiled,
    ]


def _tests(place: Place, name: str, files: list[str], limit: float) -> Step:
    return Step(name, [place.python, "-m", "pytest", "-q", *files], limit, env=place.environment)


def _split_tests(place: Place) -> list[str]:
    few = ["-k", "bias or refusals"] if place.rehearse else []
    return ["tests/cuda/test_cuda_split.py", *few]


def _cuda_tests(place: Place) -> list[str]:
    pattern = "test_cuda_gae.py" if place.rehearse else "test_cuda_*.py"
    found = sorted((ROOT / "tests" / "cuda").glob(pattern))
    return [str(path.relative_to(ROOT)) for path in found]


def _side_by_side(place: Place, name: str, commands: list[list[str]], limit: float) -> Step:
    words = [word for command in commands for word in ("---", *command)]
    command = [place.python, "benchmarks/side_by_side.py", *words]
    return Step(name, command, limit, env=place.environment)


def _compiled_wide(place: Place) -> Step:
    """What the suites need of Triton, which takes a second or two a kernel and a core."""
    few = ["--rows", "40", "--device", "cpu"] if place.rehearse else ["--rows", "300"]
    every = [(case, precision) for case in WIDE for precision in WIDE_PRECISIONS]
    wanted = [("C4", "fp16x3")] if place.rehearse else every
    solves = [["benchmarks/one_solve.py", case, p, *few] for case, p in wanted]
    return _side_by_side(place, "wide kernels: compile", solves, 60)


def _wide_tests(place: Place) -> Step:
    parts = (
        "fp16x3",
        "bf16x3",
        "tf32",
        "fp32",
        "not fp16x3 and not bf16x3 and not tf32 and not fp32",
    )
    tests = [["-m", "pytest", "-q", "tests/wide", "-k", words] for words in parts]
    return _side_by_side(place, "wide nets, every test", tests, 100)


def _sanitizer(place: Place) -> Step:
    tool = shutil.which("compute-sanitizer")
    small = ["tests/cuda/test_cuda_update.py", "-k", "learning_through"]
    command = [tool or "", "--error-exitcode", "9", place.python, "-m", "pytest", "-q", *small]
    absent = None if tool else "compute-sanitizer is not installed"
    return Step("compute-sanitizer", command, 90, place.missing or absent)


def _primitives(place: Place) -> list[Step]:
    nvcc, program = shutil.which(os.environ.get("NVCC", "nvcc")), str(place.scratch / "primitives")
    compiler = [nvcc or "nvcc", "-std=c++20", "-O3", f"-arch=sm_{place.arch}", "-Icsrc"]
    command = [*compiler, "benchmarks/primitives.cu", "-o", program]
    absent = None if nvcc else "nvcc is not installed"
    return [
        Step("barriers and sums: compile", command, 60, absent),
        Step("barriers and sums", [program], 30, place.missing or absent),
    ]


def _ncu(place: Place, precision: str) -> Step:
    """One solve of C2 as ncu sees it: what its warps wait for, and how busy each pipe is."""
    tool = shutil.which("ncu")
    sections = ["WarpStateStats", "SpeedOfLight", "ComputeWorkloadAnalysis"]
    command = [tool or "", "--kernel-name-base", "demangled", "--launch-count", "1"]
    command += ["--kernel-name", f"regex:[(<: ]{NCU[precision]}"]
    command += [word for section in sections for word in ("--section", section)]
    command += [place.python, "benchmarks/one_solve.py", "C2", precision]
    absent = None if tool else "ncu is not installed"
    return Step(f"ncu, {precision}", command, 40, place.missing or absent)


def _bench(
    place: Place,
    suite: str,
    cases: tuple[str, ...],
    opponents: tuple[str, ...],
    limit: float,
    seconds: str = "1",
    backends: tuple[str, ...] = (*OURS, "reference"),
    precisions: tuple[str, ...] = PRECISIONS,
) -> Step:
    path = place.results / f"{suite}.json"
    command = [place.python, "-m", "trpo_fast.cli.main", "bench", suite, "--case", *cases]
    command += ["--append", "--json", str(path), "--opponents"]
    if place.rehearse:
        some = [name for name in opponents if name not in COMPILED]
        backends = tuple(name for name in backends if name != "cuda_graph")
        command += some or ["none"]
        command += ["--rows", "40", "--turns", "1", "--iterations", "2", "--device", "cpu"]
        seconds = "0.05"
    else:
        command += [*opponents, "--device", "cuda"]
    command += ["--seconds", seconds, "--backend", *backends, "--precision", *precisions]
    rows = (path, cases, precisions) if "cuda" in backends else None
    name = f"bench {suite} {' '.join(cases)}"
    return Step(name, command, limit, env=place.environment, rows=rows)


def _compiled(place: Place, case: str) -> Step:
    """A case against the opponents that compile for long, into a file of its own: last, so that
    nothing else is lost with the time they take.
    """
    command = [place.python, "-m", "trpo_fast.cli.main", "bench", "cg", "--case", case]
    command += ["--device", "cuda", "--seconds", "0.5", "--backend", *OURS]
    command += ["--opponents", *COMPILED]
    command += ["--append", "--json", str(place.results / "cg_compiled.json")]
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # otherwise JAX takes most of the memory
    return Step(f"bench cg {case}, compiled", command, 110, place.missing, env)
