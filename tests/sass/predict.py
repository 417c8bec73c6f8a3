"""Predicts how long a CG solve takes on an H200, from a compiled kernel, without a GPU.

    python -m tests.sass.predict                           the extension in trpo_fast/
    python -m tests.sass.predict KERNEL.cubin --case C1    one kernel
    python -m tests.sass.predict KERNEL.cubin --case C2 --precision fp16x3 --spent 8

One kernel to try a change on takes a quarter of a minute to compile and seconds to read:

    echo '#include "cuda/resident/kernels.cuh"
    namespace trpo_fast::cuda {
    ResidentKernel one() { return resident_kernel<Variation<1, 1, false>, false>; } }' > one.cu
    nvcc -std=c++20 -O3 -lineinfo -Icsrc -gencode arch=compute_80,code=sm_90 -cubin one.cu
    python -m tests.sass.predict one.cubin --case C1

C1 takes Variation<1, 1, false>, C2 Variation<4, 1, false>, fp16x3 SplitVariation<Fp16, 1>.
-lineinfo gives phases, and where time is spent in them, their lines of source; it changes no
instruction.

Block 0 is run from its SASS (machine.py, warps.py) with the arguments of a launch of 132
multiprocessors: every branch, address and trip count is the device's. Then every instruction is
issued on four schedulers with the stalls and scoreboard barriers the compiler wrote (timing.py),
and the numbers of hardware.py. "bound" is what the fullest piece of hardware needs by itself.

With two warps a scheduler few instructions run while others wait: simulated times are 1.5 to 2
times the bound.

What the model cannot see: instruction fetch (a kernel is 530 KB; stalls may cost 5 to 20 %), clocks
below 1.755 GHz, register bank conflicts, contention for one L2 slice, the spread of arrival at a
grid barrier (1.4 us whatever precedes it), rows that differ between blocks (block 0 has the most),
waits for copies to shared memory in the background (no tile is off chip here), and the launch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from .lines import source_lines
from .listing import Instruction, jump_tables, parse_listing
from .machine import WORKSPACE_BYTES, Launch, Machine
from .printing import print_phases
from .timing import Phase, Simulation, microseconds
from .tools import find_tool
from .warps import Runner

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARAMETERS = 0x210  # where a kernel's arguments begin in constant bank 0 on sm_90
PRECISIONS = ("fp32", "fp16x3")
PRODUCTS = 10
SIMULATED = 2  # products; the second stands for the rest


@cache
def arguments_program() -> Path:
    built = Path(tempfile.mkdtemp()) / "arguments"
    include = [f"-I{ROOT / 'tests' / 'emulation'}", f"-I{ROOT / 'csrc'}"]
    source = str(HERE / "arguments.cpp")
    subprocess.run(["g++", "-std=c++20", "-O0", *include, source, "-o", str(built)], check=True)
    return built


@dataclass(frozen=True)
class Shape:
    """A solve: net, rows, precision, and the variant of the kernel, if not the plan's choice."""

    rows: int
    head: str
    widths: tuple[int, ...]
    precision: str = "fp32"
    path: int = 0
    row_step: int = 0
    slots: int = 0


@cache
def launch_of(shape: Shape) -> dict:
    """What arguments.cpp says of a solve."""
    numbers = (SIMULATED, shape.path, shape.row_step, shape.slots, *shape.widths)
    words = [str(arguments_program()), shape.precision, str(shape.rows), shape.head]
    words += map(str, numbers)
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


CASES = {
    "C1": Shape(2048, "gaussian", (11, 64, 64, 3)),
    "C2": Shape(25000, "gaussian", (17, 64, 64, 6)),
    "cartpole": Shape(2048, "categorical", (4, 64, 64, 2)),
}


def shape_of(case: str, precision: str) -> Shape:
    return replace(CASES[case], precision=precision)


def fill_memory(told: dict) -> np.ndarray:
    """Global memory: random rows and vectors, scratch in which other blocks have published ones."""
    memory = np.zeros((told["bytes"] + WORKSPACE_BYTES + len(told["arguments"])) // 4, np.uint32)
    random = np.random.default_rng(0)
    for name, scale in (("obs", 1), ("theta", 0.1), ("v", 1)):
        at, count = told["arrays"][name]
        values = scale * random.standard_normal(count // 4)
        memory[at // 4 : (at + count) // 4] = values.astype(np.float32).view(np.uint32)
    at = (told["arrays"]["scratch"][0] + told["scalars"]) // 4
    memory[at : at + 64 * told["grid"]].view(np.float64)[:] = 1.0
    return memory


def make_launch(told: dict, table: bytes) -> Launch:
    """Constant banks and memory as the driver would leave them."""
    memory, arena, size = fill_memory(told), told["arena"], told["bytes"]
    arguments = np.frombuffer(bytes.fromhex(told["arguments"]), np.uint32)
    bank = np.zeros(PARAMETERS // 4 + len(arguments) + 64, np.uint32)
    bank[:6] = told["threads"], 1, 1, told["grid"], 1, 1
    bank[0x28 // 4] = 2048  # the stack's end
    for low, high, address in ((0x48, 0x44, arena + size), (0x198, 0x19C, 0)):
        address = address or arena + size + WORKSPACE_BYTES  # of the arguments, as memory
        bank[low // 4], bank[high // 4] = address & 0xFFFFFFFF, address >> 32
    bank[PARAMETERS // 4 :][: len(arguments)] = arguments
    memory[(size + WORKSPACE_BYTES) // 4 :][: len(arguments)] = arguments
    jumps = np.zeros(64, np.uint32)
    jumps[: len(table) // 4] = np.frombuffer(table, np.uint32)
    return Launch({0: bank, 2: jumps}, memory, arena, told["threads"], told["grid"])


def kernel_name(told: dict, precision: str) -> str:
    """Part of the mangled name of the kernel that serves a launch."""
    if precision != "fp32":
        return f"SplitVariationINS0_4Fp16ELi{told['slots']}EEELb0E"
    streamed = int(told["path"] == 2)
    return f"9VariationILi{told['row_step']}ELi{told['slots']}ELb{streamed}EEELb0E"


@dataclass
class Prediction:
    phases: list[Phase]  # of the whole run of SIMULATED products
    iteration: list[Phase]  # of the last product and the step after it

    @property
    def iteration_us(self) -> float:
        return microseconds(self.iteration)

    @property
    def solve_us(self) -> float:
        return microseconds(self.phases) + (PRODUCTS - SIMULATED) * self.iteration_us

    @property
    def start_us(self) -> float:
        return self.solve_us - PRODUCTS * self.iteration_us

    @property
    def reduce_us(self) -> float:
        """Of the slice reduction, between the two grid barriers of a product."""
        first, second = (i for i, phase in enumerate(self.iteration) if phase.grid)
        return microseconds(self.iteration[first + 1 : second])

    @property
    def solve_bound(self) -> float:
        rest = (PRODUCTS - SIMULATED) * microseconds(self.iteration, bound=True)
        return microseconds(self.phases, bound=True) + rest


def predict(code: list[Instruction], table: bytes, told: dict) -> Prediction:
    machine = Machine(code, make_launch(told, table))
    Runner(machine).run()
    phases = Simulation(code, machine.trace, machine.lanes // 32).run()
    grids = [i for i, phase in enumerate(phases) if phase.grid]
    # Two barriers a product, one at the end: what lies between the first product's second and the
    # second product's second is a step of CG and a pass.
    last = grids[-2]
    return Prediction(phases, phases[grids[-4] + 1 : last + 1])


def read_kernels(cubin: Path) -> dict[str, tuple[list[Instruction], bytes]]:
    done = subprocess.run(
        [find_tool("cuobjdump"), "-sass", str(cubin)], capture_output=True, text=True, check=True
    )
    tables = jump_tables(cubin)
    return {name: (c, tables.get(name, b"")) for name, c in parse_listing(done.stdout).items()}


def extract(library: Path, folder: Path) -> list[Path]:
    """The cubins of sm_90 in an extension."""
    command = [find_tool("cuobjdump"), "-xelf", "sm_90", str(library.resolve())]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return sorted(folder.glob("*.cubin"))


@dataclass(frozen=True)
class Compiled:
    """The kernel that serves a launch, as found in a cubin."""

    cubin: Path
    name: str
    code: list[Instruction]
    table: bytes


def find_kernel(cubins: list[Path], told: dict, precision: str) -> Compiled | None:
    wanted = kernel_name(told, precision)
    for cubin in cubins:
        if wanted.encode() in cubin.read_bytes():
            for name, (code, table) in read_kernels(cubin).items():
                if wanted in name:
                    return Compiled(cubin, name, code, table)
    return None


def report(cubins: list[Path], case: str, precision: str, spent: int) -> None:
    """The phases of one case, if its kernel is there."""
    told = launch_of(shape_of(case, precision))
    found = find_kernel(cubins, told, precision)
    if not found:
        print(f"{case} {precision}: no kernel with {kernel_name(told, precision)} in its name\n")
        return
    p = predict(found.code, found.table, told)
    print(f"{case} {precision}: {told['grid']} blocks, {told['own']} tiles of "
          f"{16 * told['row_step']} rows a block")  # fmt: skip
    print_phases(p.iteration, found.code, source_lines(found.cubin, found.name), spent)
    bound = microseconds(p.iteration, bound=True)
    print(
        f"a product and its step: {p.iteration_us:.1f} us (bound {bound:.1f}); "
        f"a solve of {PRODUCTS}: {p.solve_us:.0f} us (bound {p.solve_bound:.0f})\n"
    )


@contextmanager
def cubins_of(files: list[Path]) -> Iterator[list[Path]]:
    """Cubins as they are, and those of sm_90 that an extension holds; none: the built extension."""
    files = files or list((ROOT / "trpo_fast").glob("_C*.so"))
    with tempfile.TemporaryDirectory() as folder:
        libraries = [file for file in files if file.suffix == ".so"]
        cubins = [file for file in files if file.suffix != ".so"]
        for library in libraries:
            cubins += extract(library, Path(folder))
        yield cubins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="cubins; default: the extension's")
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--spent", type=int, default=0, help="lines shown for each phase")
    options = parser.parse_args()
    precisions = options.precision or (PRECISIONS[:1] if options.files else PRECISIONS)
    with cubins_of(options.files) as cubins:
        for case in options.case or CASES:
            for precision in precisions:
                report(cubins, case, precision, options.spent)


if __name__ == "__main__":
    main()
