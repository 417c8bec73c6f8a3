"""Holds the built CUDA kernels to a recorded budget, without a GPU.

    python tests/support/check_cuda.py            reads trpo_fast/_C*.so, compares, prints a table
    python tests/support/check_cuda.py --update   rewrites tests/support/cuda_budget.json

For every kernel and architecture in the extension: registers and stack as ptxas allotted them, and
counts of machine instructions. Resources and suspicious instructions (spills and other local
memory, double precision, loads and stores that do not know their memory) may not grow; expected
instructions (FFMA, cp.async) may not vanish, and those of the tensor cores are counted. "hot"
counts inside the innermost loops that mostly multiply and add. cuobjdump and nvdisasm come from
PyPI. Where TRPO_FAST_CUDA_ARCHS names fewer architectures for the build, these alone are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUDGET = Path(__file__).with_name("cuda_budget.json")
SHIPPED = ("sm_80", "sm_90", "sm_100")

# What a count adds up: the first word of the instruction, up to its first dot.
GROUPS = {
    "local": ("LDL", "STL"),
    "double": ("DFMA", "DADD", "DMUL", "DSETP", "DMNMX"),
    "generic": ("LD", "ST"),  # global or shared? the compiler did not know
    "ffma": ("FFMA", "FFMA2"),
    "hmma": ("HMMA",),
    "cp_async": ("LDGSTS",),
}
# What may grow by a tenth or by so many, whichever is more, before it counts: the compiler's moods.
AT_MOST = {
    "registers": 8,
    "stack": 32,
    "local": 16,
    "double": 16,
    "generic": 16,
    "hot_local": 0,
    "hot_double": 4,
}
PRESENT = ("ffma", "cp_async")
EXACT = ("hmma",)  # their loops are not unrolled: as many as the source has
HOT_FFMA = 16  # an innermost loop with as many, half of its instructions or more, is hot

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)(\S*)\s*([^;]*);")


@dataclass
class Code:
    """The instructions of one kernel."""

    instructions: list[tuple[int, str]] = field(default_factory=list)  # address, name
    loops: list[tuple[int, int]] = field(default_factory=list)  # first address, that of the branch

    def innermost(self) -> list[Counter[str]]:
        """The instructions of every loop that holds no other."""
        inner = [
            (first, last)
            for first, last in self.loops
            if not any(first <= f and l <= last and (f, l) != (first, last) for f, l in self.loops)
        ]
        return [
            Counter(name for at, name in self.instructions if first <= at <= last)
            for first, last in inner
        ]


def count(names: Counter[str], group: str) -> int:
    return sum(names[name] for name in GROUPS[group])


def parse_sass(text: str) -> dict[tuple[str, str], Code]:
    """(mangled kernel, arch) -> its code, from cuobjdump -sass."""
    found: dict[tuple[str, str], Code] = {}
    arch, code = "", Code()
    for line in text.splitlines():
        if match := re.match(r"\s*code for (sm_\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            code = found.setdefault((match[1], arch), Code())
        elif match := INSTRUCTION.match(line):
            at, name = int(match[1], 16), match[2]
            code.instructions.append((at, name))
            target = re.search(r"0x([0-9a-f]+)\s*$", match[4]) if name == "BRA" else None
            if target and int(target[1], 16) < at:
                code.loops.append((int(target[1], 16), at))
    return found


def parse_resources(text: str) -> dict[tuple[str, str], dict[str, int]]:
    """(mangled kernel, arch) -> registers and stack, from cuobjdump -res-usage."""
    found, arch, kernel = {}, "", ""
    for line in text.splitlines():
        if match := re.match(r"arch = (sm_\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\S+):$", line):
            kernel = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+)", line):
            found[kernel, arch] = {"registers": int(match[1]), "stack": int(match[2])}
    return found


def summarise(code: Code) -> dict[str, int]:
    names = Counter(name for _, name in code.instructions)
    hot: Counter[str] = Counter()
    for loop in code.innermost():
        ffma = count(loop, "ffma")
        if (ffma >= HOT_FFMA and 2 * ffma >= loop.total()) or count(loop, "hmma"):
            hot += loop
    numbers = {group: count(names, group) for group in GROUPS}
    return numbers | {"hot_local": count(hot, "local"), "hot_double": count(hot, "double")}


def readable(mangled: list[str]) -> dict[str, str]:
    """resident_kernel<4, 1, false> for what nvcc made of it."""
    said = subprocess.run(
        ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    short = [
        re.sub(r"^void |trpo_fast::(cuda::)?|\(anonymous namespace\)::", "", name) for name in said
    ]
    return {m: s.split("(")[0].replace(" >", ">") for m, s in zip(mangled, short, strict=True)}


def find_tool(name: str) -> str:
    if found := shutil.which(name):
        return found
    site = Path(sysconfig.get_path("purelib"), "nvidia")
    for path in sorted(site.glob(f"*/bin/{name}")):
        return str(path)
    raise FileNotFoundError(
        f"no {name} found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    )


def ask(library: Path, option: str) -> str:
    command = [find_tool("cuobjdump"), option, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def measure(library: Path) -> dict[str, dict[str, dict[str, int]]]:
    """kernel -> arch -> what the budget is about."""
    find_tool("nvdisasm")
    resources, sass = parse_resources(ask(library, "-res-usage")), parse_sass(ask(library, "-sass"))
    names = readable(sorted({kernel for kernel, _ in sass}))
    measured: dict[str, dict[str, dict[str, int]]] = {}
    for (kernel, arch), code in sorted(sass.items()):
        if (kernel, arch) in resources:  # device functions that were not inlined have none
            numbers = resources[kernel, arch] | summarise(code)
            measured.setdefault(names[kernel], {})[arch] = numbers
    return measured


def built_for() -> tuple[str, ...]:
    """The architectures that setup.py was asked for, or those that are shipped."""
    asked = re.findall(r"\d+[af]?", os.environ.get("TRPO_FAST_CUDA_ARCHS") or "")
    return tuple(f"sm_{arch}" for arch in asked) or SHIPPED


def compare(measured: dict, budget: dict, archs: tuple[str, ...] = SHIPPED) -> list[str]:
    """A sentence for everything that is over budget, or missing on either side."""
    wrong = []
    for kernel in sorted(measured.keys() ^ budget.keys()):
        where = "budget" if kernel in budget else "extension"
        wrong.append(f"{kernel}: only in the {where}; run check_cuda.py --update")
    for kernel in sorted(measured.keys() & budget.keys()):
        for arch in archs:
            got, allowed = measured[kernel].get(arch), budget[kernel].get(arch)
            if got is None or allowed is None:
                wrong.append(f"{kernel}: no code for {arch} in the extension or the budget")
                continue
            for key, free in AT_MOST.items():
                if got[key] > allowed[key] + max(free, allowed[key] // 10):
                    wrong.append(f"{kernel} {arch}: {key} {got[key]}, budget {allowed[key]}")
            for key in PRESENT:
                if allowed[key] and not got[key]:
                    wrong.append(f"{kernel} {arch}: {key} gone, {allowed[key]} in the budget")
            for key in EXACT:
                if got[key] != allowed[key]:
                    wrong.append(f"{kernel} {arch}: {key} {got[key]}, expected {allowed[key]}")
    return wrong


def print_table(measured: dict) -> None:
    columns = [*AT_MOST, *PRESENT, *EXACT]
    print(f"{'kernel':44} {'arch':7}" + "".join(f"{c:>11}" for c in columns))
    for kernel, archs in measured.items():
        for arch, numbers in archs.items():
            cells = "".join(f"{numbers[c]:>11}" for c in columns)
            print(f"{kernel:44} {arch:7}{cells}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", nargs="?", type=Path, help="default: the one in trpo_fast/")
    parser.add_argument("--update", action="store_true", help="rewrite the budget")
    options = parser.parse_args()
    built = options.library or next((ROOT / "trpo_fast").glob("_C*.so"), None)
    if built is None:
        print("no extension in trpo_fast/: build it with TRPO_FAST_CUDA=1", file=sys.stderr)
        return 2
    measured = measure(built)
    print_table(measured)
    archs = built_for()
    if options.update:
        if archs != SHIPPED:
            print(f"the budget is for {', '.join(SHIPPED)}: build for all of them", file=sys.stderr)
            return 2
        BUDGET.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")
        return 0
    budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    wrong = compare(measured, budget, archs)
    if not measured:
        wrong.append(f"{built.name}: no CUDA kernel in it")
    if ".ptx" not in ask(built, "--list-ptx"):
        wrong.append(f"{built.name}: no PTX for later architectures")
    for line in wrong:
        print(f"over budget: {line}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
