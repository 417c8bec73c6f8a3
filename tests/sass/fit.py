"""Fits the microseconds of csrc/cuda/resident/predicted.h to the model.

    python -m tests.sass.fit [FILE...]    an extension or cubins; default: the built extension

Every variant of the kernel runs two nets with one and with two tiles a block; a line through what a
tile adds, and one through the rest, are its numbers. Variants whose kernel is not in the files keep
theirs. Takes minutes.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

from . import predict as model

HEADER = model.ROOT / "csrc" / "cuda" / "resident" / "predicted.h"
BLOCKS = 132
NARROW = ((8, 32, 32, 2), (17, 64, 64, 6))  # one register tile or block of weight gradients
WIDE = ((17, 80, 80, 6), (17, 104, 104, 6))  # three
HUGE = ((17, 128, 128, 6), (348, 128, 128, 17))  # streamed
RESIDENT, STREAMED = 1, 2
ENTRY = re.compile(
    r"constexpr Variant k(?P<table>\w+)Variants|"
    r"\{(?P<rows>\d), (?P<slots>\d), \{[^}]*\}, \{[^}]*\}\}"
)


@dataclass(frozen=True)
class Times:
    """Of one launch."""

    packed: int
    start: float
    product: float


def simulate(cubins: list[Path], shape: model.Shape) -> Times | None:
    told = model.launch_of(shape)
    found = model.find_kernel(cubins, told, shape.precision)
    if not found:
        return None
    p = model.predict(found.code, found.table, told)
    return Times(told["packed"], p.start_us, p.iteration_us)


def line(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Microseconds at no floats, and nanoseconds a float, through two points; never falling, and
    never negative, where it goes between the points.
    """
    slope = max(0.0, (second[1] - first[1]) / (second[0] - first[0]))
    mean = (first[1] + second[1] - slope * (first[0] + second[0])) / 2
    if mean < 0.0:
        return 0.0, 500 * (first[1] / first[0] + second[1] / second[0])
    return mean, 1000 * slope


def fit_variant(cubins: list[Path], shape: model.Shape, nets: tuple) -> list | None:
    """(step, tile) of a variant, and what its launches need before their first product."""
    steps, tiles, starts = [], [], []
    for widths in nets:
        runs = []
        for own in (1, 2):
            rows = 16 * shape.row_step * BLOCKS * own
            runs.append(simulate(cubins, replace(shape, widths=widths, rows=rows)))
        if None in runs:
            return None
        one, two = runs
        tile = two.product - one.product
        steps.append((one.packed, one.product - tile))
        tiles.append((one.packed, tile))
        starts.append((one.packed, one.start - tile))
    print(f"{shape.precision} path {shape.path} {shape.row_step}, {shape.slots}: "
          f"step {line(*steps)}, tile {line(*tiles)}, start {starts}", flush=True)  # fmt: skip
    return [line(*steps), line(*tiles)]


def number(value: float) -> str:
    return f"{value:.2f}f"


def nets_of(path: int, slots: int) -> tuple:
    if path == STREAMED:
        return HUGE
    return NARROW if slots == 1 else WIDE


def rewrite(text: str, cubins: list[Path]) -> str:
    """The header with the numbers of every variant whose kernel is in the cubins."""
    table = ""

    def replaced(match: re.Match[str]) -> str:
        nonlocal table
        if match["table"]:
            table = match["table"]
            return match[0]
        row_step, slots = int(match["rows"]), int(match["slots"])
        precision = "fp16x3" if table == "Split" else "fp32"
        path = STREAMED if table == "Streamed" else RESIDENT
        shape = model.Shape(0, "gaussian", (), precision, path, row_step, slots)
        fitted = fit_variant(cubins, shape, nets_of(path, slots))
        if not fitted:
            return match[0]
        pairs = ", ".join(f"{{{number(a)}, {number(b)}}}" for a, b in fitted)
        return f"{{{row_step}, {slots}, {pairs}}}"

    return ENTRY.sub(replaced, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    with model.cubins_of(options.files) as cubins:
        HEADER.write_text(rewrite(HEADER.read_text(), cubins))


if __name__ == "__main__":
    main()
