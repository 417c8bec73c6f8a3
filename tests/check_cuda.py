"""Static check of the built CUDA kernels against a recorded budget; needs no GPU.

Reads build/native-*/cuda/*.cu.o through cuobjdump: registers, stack and static shared memory of
every kernel on every architecture, and how many instructions of each kind it has. A kernel may not
exceed its recorded registers, stack, shared memory, float64 and local-memory (spill) instructions,
nor have fewer tensor-core or asynchronous-copy instructions than recorded.

    python tests/check_cuda.py            compare with tests/cuda_budget.json
    python tests/check_cuda.py --record   write what was found there
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = Path(__file__).with_name("cuda_budget.json")
ARCHS = {"sm_80", "sm_90", "sm_100"}
INSTRUCTIONS = {
    "tensor": {"HMMA"},
    "async": {"LDGSTS"},
    "float64": {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX"},
    "local": {"LDL", "STL"},
}
AT_LEAST = ("tensor", "async")
AT_MOST = ("registers", "stack", "shared", "float64", "local")

Kernels = dict[str, dict[str, dict[str, int]]]  # architecture -> kernel -> quantity -> value


def find_cuobjdump() -> str:
    """The program from PATH or from the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm."""
    spec = importlib.util.find_spec("nvidia")
    packages = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    for folder in (bin for package in packages for bin in package.glob("*/bin")):
        os.environ["PATH"] += f"{os.pathsep}{folder}"  # cuobjdump calls nvdisasm by name
    if found := shutil.which("cuobjdump"):
        return found
    raise FileNotFoundError("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")


def parse_usage(text: str) -> Kernels:
    """Registers, stack and static shared memory from `cuobjdump -res-usage`."""
    kernels: Kernels = {}
    arch = kernel = ""
    for line in text.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (.+):$", line):
            kernel = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            values = dict(
                zip(("registers", "stack", "shared"), map(int, match.groups()), strict=True)
            )
            kernels.setdefault(arch, {})[kernel] = values
    return kernels


def parse_sass(text: str) -> Kernels:
    """Number of instructions of each kind from `cuobjdump -sass`."""
    kernels: Kernels = {}
    opcodes: Counter[str] = Counter()
    arch = ""
    for line in text.splitlines():
        if match := re.match(r"\s*code for (\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            opcodes = Counter()
            kernels.setdefault(arch, {})[match[1]] = opcodes  # filled by the lines that follow
        elif match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", line):
            opcodes[match[1]] += 1
    return {
        arch: {
            kernel: {
                kind: sum(found[name] for name in names) for kind, names in INSTRUCTIONS.items()
            }
            for kernel, found in by_kernel.items()
        }
        for arch, by_kernel in kernels.items()
    }


def demangle(kernels: Kernels) -> Kernels:
    """The same with C++ names, without namespace, return type and parameters."""
    mangled = sorted({name for by_kernel in kernels.values() for name in by_kernel})
    said = subprocess.run(
        ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True
    )
    names = dict(zip(mangled, map(short_name, said.stdout.splitlines()), strict=True))
    return {
        arch: {names[name]: values for name, values in sorted(by_kernel.items())}
        for arch, by_kernel in kernels.items()
    }


def short_name(demangled: str) -> str:
    """`void trpo_fast::k<64>(float*)` -> `k<64>`."""
    name = demangled.removeprefix("void ").replace("trpo_fast::", "")
    name = name.replace("(anonymous namespace)::", "")
    depth = 0
    for index, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:index]
    return name


def measure(objects: list[Path]) -> Kernels:
    """Everything about every kernel of the objects."""
    cuobjdump = find_cuobjdump()
    merged: Kernels = {}
    for path in objects:
        for option, parse in (("-res-usage", parse_usage), ("-sass", parse_sass)):
            said = subprocess.run(
                [cuobjdump, option, path], capture_output=True, text=True, check=True
            )
            for arch, by_kernel in demangle(parse(said.stdout)).items():
                for kernel, values in by_kernel.items():
                    merged.setdefault(arch, {}).setdefault(kernel, {}).update(values)
    return merged


def compare(found: Kernels, budget: Kernels) -> list[str]:
    """What breaks the budget, one sentence each."""
    problems = [f"{arch}: expected kernels, found none" for arch in sorted(ARCHS - set(found))]
    for arch in sorted(found):
        recorded = budget.get(arch, {})
        problems += [
            f"{arch} {kernel}: in the budget but not in the build"
            for kernel in sorted(set(recorded) - set(found[arch]))
        ]
        for kernel, values in sorted(found[arch].items()):
            if kernel not in recorded:
                problems.append(f"{arch} {kernel}: not in the budget")
                continue
            problems += [f"{arch} {kernel}: {text}" for text in _excess(values, recorded[kernel])]
    return problems


def _excess(values: dict[str, int], limits: dict[str, int]) -> list[str]:
    high = [name for name in AT_MOST if values[name] > limits[name]]
    low = [name for name in AT_LEAST if values[name] < limits[name]]
    texts = [f"{name}: expected at most {limits[name]}, got {values[name]}" for name in high]
    return texts + [f"{name}: expected at least {limits[name]}, got {values[name]}" for name in low]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the budget from this build")
    record = parser.parse_args(argv).record
    build = ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    if not sources:
        print("csrc/cuda contains no kernels")
        return 0
    objects = [build / "cuda" / f"{source.name}.o" for source in sources]
    if missing := [path for path in objects if not path.exists()]:
        print(f"{missing[0]}: not built; TRPO_FAST_CUDA=1 make build", file=sys.stderr)
        return 1
    found = measure(objects)
    if record:
        BUDGET.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    problems = compare(found, json.loads(BUDGET.read_text()) if BUDGET.exists() else {})
    kernels = {kernel for by_kernel in found.values() for kernel in by_kernel}
    print("\n".join(problems) or f"{len(kernels)} kernels within budget on {', '.join(found)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
