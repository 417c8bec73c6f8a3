"""Holds the predicted times of the CUDA kernels' solves to a recorded budget, without a GPU.

    python -m tests.sass.check [FILE...]           an extension or cubins; default: the built one
    python -m tests.sass.check --update [FILE...]  rewrites the budget, and the table of predictions
                                                   in benchmarks/README.md

csrc/cuda/resident/predicted.h, which the plans and `trpo-fast doctor` go by, has to agree as well.
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
AGREEMENT = 0.1  # of what predicted.h says and the model
HELD = {
    "product": "a product and its step",
    "solve": f"a solve of {model.PRODUCTS} products",
    "bound": f"what the fullest piece of hardware needs for a solve of {model.PRODUCTS} products",
}
Times = dict[str, dict[str, float]]  # "C1 fp32" -> microseconds


def times_of(p: model.Prediction, told: dict) -> dict[str, float]:
    found = {
        "start": p.start_us,
        "product": p.iteration_us,
        "reduce": p.reduce_us,
        "solve": p.solve_us,
        "bound": p.solve_bound,
        "stated": told["start_us"] + model.PRODUCTS * told["product_us"],  # by predicted.h
    }
    return {name: round(us, 2) for name, us in found.items()}


def measure(files: list[Path]) -> Times:
    """Every case and precision whose kernel is there."""
    measured = {}
    with model.cubins_of(files) as cubins:
        for case in model.CASES:
            for precision in model.PRECISIONS:
                told = model.launch_of(model.shape_of(case, precision))
                if found := model.find_kernel(cubins, told, precision):
                    p = model.predict(found.code, found.table, told)
                    measured[f"{case} {precision}"] = times_of(p, told)
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


def disagreements(measured: Times) -> list[str]:
    """A sentence for every solve of which predicted.h says something else than the model."""
    return [
        f"{name}: csrc/cuda/resident/predicted.h says that a solve takes {t['stated']:.0f} us, the "
        f"model {t['solve']:.0f}; run python -m tests.sass.fit"
        for name, t in measured.items()
        if abs(t["stated"] / t["solve"] - 1) > AGREEMENT
    ]


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
    wrong += disagreements(measured)
    for line in wrong:
        print(f"predicted times: {line}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
