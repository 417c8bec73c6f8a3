"""Bank conflicts and coalescing of the kernels, per source line, counted on the host.

    python -m tests.emulation.memory_report [CASE...]     the worst lines of each case
    python -m tests.emulation.memory_report --update      rewrites memory_budget.json

Shared memory is measured in wavefronts, global memory in 32-byte sectors, both against the fewest
that the same bytes need. The budget holds the ratio of each case named memory_* per source file;
the tests fail when one grows.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from . import build as builder

BUDGET = Path(__file__).with_name("memory_budget.json")
SPACES = {"S": "shared", "G": "global"}
SLACK = 1.005  # a ratio may grow by half a percent before it counts


@dataclass
class Cost:
    """What one line of source, or one file, asks of one kind of memory."""

    requests: int = 0
    parts: int = 0
    fewest: int = 0

    @property
    def ratio(self) -> float:
        return self.parts / max(self.fewest, 1)

    def add(self, requests: int, parts: int, fewest: int) -> None:
        self.requests += requests
        self.parts += parts
        self.fewest += fewest


Line = tuple[str, str, str, int]  # case, space, file, line


def run_cases(names: list[str]) -> list[list[str]]:
    """The "memory ..." lines of the instrumented binary, split into words."""
    binary = builder.build("memory")
    if not names:
        listed = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True)
        names = re.findall(r"^case (memory_\w+)$", listed.stdout, re.MULTILINE)
    done = subprocess.run([binary, *names], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the memory cases failed:\n{done.stdout}{done.stderr}")
    lines = done.stdout.splitlines()
    return [line.split()[1:] for line in lines if line.startswith("memory ")]


def locate(addresses: list[str]) -> dict[str, tuple[str, int]]:
    """Each instruction's line of kernel source: the innermost frame outside the emulator's headers
    and the smallest wrappers."""
    command = ["addr2line", "-a", "-i", "-e", str(builder.BUILD / "memory" / "cases_memory")]
    said = subprocess.run(
        command, input="\n".join(addresses), capture_output=True, text=True, check=True
    ).stdout
    places = {}
    for block in re.split(r"^(?=0x)", said, flags=re.MULTILINE)[1:]:
        address, *frames = block.splitlines()
        found = [f.split(" (")[0].rsplit(":", 1) for f in frames if ":?" not in f]
        named = [(Path(file).name, int(line)) for file, line in found]
        mine = [n for n in named if not n[0].startswith("emulate") and n[0] != "copy.cuh"]
        places[f"{int(address, 16):#x}"] = (mine or named or [("?", 0)])[0]
    return places


def measure(names: list[str]) -> dict[Line, Cost]:
    rows = run_cases(names)
    places = locate(sorted({row[2] for row in rows}))
    costs: dict[Line, Cost] = defaultdict(Cost)
    for space, case, address, *numbers in rows:
        file, line = places[address]
        costs[case, SPACES[space], file, line].add(*map(int, numbers))
    return costs


def by_file(costs: dict[Line, Cost]) -> dict[str, dict[str, dict[str, float]]]:
    """case -> file -> space -> ratio."""
    sums: dict[tuple[str, str, str], Cost] = defaultdict(Cost)
    for (case, space, file, _), cost in costs.items():
        sums[case, file, space].add(cost.requests, cost.parts, cost.fewest)
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for (case, file, space), cost in sorted(sums.items()):
        nested.setdefault(case, {}).setdefault(file, {})[space] = round(cost.ratio, 3)
    return nested


def over_budget(measured: dict, budget: dict) -> list[str]:
    """A sentence for everything that is worse than the budget or missing from it."""
    wrong = []
    for case in sorted(measured.keys() ^ budget.keys()):
        where = "budget" if case in budget else "measurement"
        wrong.append(f"{case}: only in the {where}; run memory_report --update")
    for case in measured.keys() & budget.keys():
        for file, spaces in measured[case].items():
            for space, ratio in spaces.items():
                allowed = budget[case].get(file, {}).get(space, 1.0)
                if ratio > allowed * SLACK:
                    wrong.append(f"{case}: {space} memory in {file}: {ratio}, budget {allowed}")
    return wrong


def print_report(costs: dict[Line, Cost], limit: int) -> None:
    for case in sorted({key[0] for key in costs}):
        for space, unit in (("shared", "wavefronts"), ("global", "sectors")):
            rows = [(k, c) for k, c in costs.items() if k[:2] == (case, space)]
            total, fewest = sum(c.parts for _, c in rows), sum(c.fewest for _, c in rows)
            print(f"{case}: {space} memory: {total} {unit}, fewest {fewest}")
            rows.sort(key=lambda row: row[1].fewest - row[1].parts)
            for key, cost in rows[:limit]:
                if cost.parts > cost.fewest:
                    print(
                        f"  {cost.ratio:5.1f}x  {cost.parts:8d} / {cost.fewest:<8d} "
                        f"{cost.requests:7d} requests  {key[2]}:{key[3]}"
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--update", action="store_true", help="rewrite the budget")
    parser.add_argument("--lines", type=int, default=10, help="lines shown per case and memory")
    options = parser.parse_args()
    costs = measure([] if options.update else options.cases)
    print_report(costs, options.lines)
    if options.update:
        BUDGET.write_text(json.dumps(by_file(costs), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
