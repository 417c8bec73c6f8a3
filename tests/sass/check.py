"""Holds the predicted times of the CUDA kernels' solves to a recorded budget, without a GPU.

    python -m tests.sass.check [FILE...]           an extension or cubins; default: the built one
    python -m tests.sass.check --update [FILE...]  rewrites the budget, and the table of predictions
                                                   in benchmarks/README.md

Predicted, not measured: a longer time says that something got worse on paper, by how much, and
`python -m tests.sass.predict` says in which phase.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from . import predict as model

BUDGET = model.ROOT / "tests" / "support" / "cuda_times.json"
PAGE = model.ROOT / "benchmarks" / "README.md"
SLACK = 1.03  # a time may grow by so much before it counts
HELD = {
    "product": "a product and its step",
    "solve": f"a solve of {model.PRODUCTS} products",
    "bound": f"what the fullest piece of hardware needs for a solve of {model.PRODUCTS} products",
}
Times = dict[str, dict[str, float]]  # "C1 fp32" -> microseconds


def times_of(p: model.Prediction) -> dict[str, float]:
    start = p.solve_us - model.PRODUCTS * p.iteration_us
    found = {
        "start": start,
        "product": p.iteration_us,
        "reduce": p.reduce_us,
        "solve": p.solve_us,
        "bound": p.solve_bound,
    }
    return {name: round(us, 2) for name, us in found.items()}


def measure(files: list[Path]) -> Times:
    """Every case and precision whose kernel is there."""
    measured = {}
    with model.cubins_of(files) as cubins:
        for case in model.CASES:
            for precision in model.PRECISIONS:
                told = model.launch_of(case, precision)
                if found := model.find_kernel(cubins, told, precision):
                    p = model.predict(found.code, found.table, told)
                    measured[f"{case} {precision}"] = times_of(p)
    return measured


def compare(measured: Times, budget: Times) -> list[str]:
    """A sentence for every time that has grown, and for what is missing on either side."""
    wrong = []
    for name in sorted(measured.keys() ^ budget.keys()):
        where = "budget" if name in budget else "prediction"
        wrong.append(f"{name}: only in the {where}; run python -m tests.sass.check --update")
    for name in sorted(measured.keys() & budget.keys()):
        for key, what in HELD.items():
            got, allowed = measured[name][key], budget[name][key]
            if got > allowed * SLACK:
                wrong.append(
                    f"{name}: {what} is predicted to take {got:.1f} us, {allowed:.1f} in the budget"
                )
    return wrong


def table(times: Times) -> str:
    """The rows of benchmarks/README.md."""
    lines = [
        "| case | start | a product and its step | of it the reduction | solve of 10 | bound |",
        "|---|---|---|---|---|---|",
    ]
    for name, t in times.items():
        case, precision = name.split()
        lines.append(
            f"| `{case}` {precision} | {t['start']:.0f} | {t['product']:.1f} | {t['reduce']:.1f} "
            f"| **{t['solve']:.0f}** | {t['bound']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def fill_page(times: Times) -> str:
    """The page with the table of these times."""
    sys.path.insert(0, str(PAGE.parent))
    fill = importlib.import_module("marked").fill
    sys.path.pop(0)
    return fill(PAGE.read_text(), "predicted", table(times))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--update", action="store_true", help="rewrite the budget and the page")
    options = parser.parse_args()
    measured = measure(options.files)
    print(table(measured))
    if options.update:
        BUDGET.write_text(json.dumps(measured, indent=1) + "\n")
        PAGE.write_text(fill_page(measured))
        return 0
    wrong = compare(measured, json.loads(BUDGET.read_text()))
    for line in wrong:
        print(f"slower than the budget: {line}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
