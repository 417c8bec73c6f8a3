"""Tables and a chart from the JSON that `trpo-fast bench` wrote; no figure is typed by hand.

python benchmarks/plot.py                  # rewrites what stands between the markers of README.md,
                                           # here and one folder up
python benchmarks/plot.py --check          # fails if either is not what the JSON says
python benchmarks/plot.py --png FILE       # one bar chart of the CG suite of every machine
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from marked import fill

from trpo_fast.bench.cases import CASES, RECORDED_CASES
from trpo_fast.bench.report import (
    Row,
    format_gain,
    format_gflops,
    format_products,
    format_time,
    read_json,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TITLES = {
    "fvp": "One Fisher-vector product, forward already done",
    "cg": "CG solve, 10 iterations, from (parameters, obs, g) to x",
    "cg_busy": "The same solve beside as many busy processes as cores",
    "update": "Whole update, from the batch to the new parameters",
    "act": "One step of 8 environments: actions, log-probabilities, values",
    "critic_128": "Critic: 10 epochs of Adam, minibatches of 128",
    "critic_1024": "Critic: Adam, ours 20 epochs of minibatches of 1024, sb3's 10 of 128",
}
OURS = ("cuda_graph", "cuda", "cpu", "reference", "autograd")


def is_ours(row: Row) -> bool:
    return row.backend in OURS


def contender(row: Row) -> str:
    name = f"**{row.backend}**" if is_ours(row) else row.backend
    return name if row.precision == "fp32" else f"{name} {row.precision}"


def suite_table(rows: Iterable[Row]) -> str:
    """One line for each case and contender, fastest first."""
    rows = list(rows)
    fitted = any(row.loss for row in rows)
    products = any(row.products_per_second for row in rows)
    names = ["case", "contender", "threads", "median", *["products/s"] * products, "GF/s"]
    gains = any(row.gain is not None for row in rows)
    names += ["of sgemm", "error", *["gain"] * gains, "time over our fp32"]
    names += ["final loss"] * fitted
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for case, threads in dict.fromkeys((row.case, row.threads) for row in rows):
        group = [row for row in rows if (row.case, row.threads) == (case, threads)]
        ours = [row.median_us for row in group if is_ours(row) and row.precision == "fp32"]
        best = min(ours, default=None)
        for row in sorted(group, key=lambda row: row.median_us):
            factor = f"{row.median_us / best:.2f}x" if best else ""
            cells = [
                f"{case}, N = {row.n}",
                contender(row),
                str(threads),
                format_time(row.median_us),
                *[format_products(row)] * products,
                format_gflops(row),
                f"{row.efficiency:.1%}",
                f"{row.rel_err:.1e}",
                *[format_gain(row)] * gains,
                factor,
            ]
            if fitted:
                loss = row.loss or {}
                cells.append(" ± ".join(f"{value:.4f}" for value in loss.values()))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def header_line(header: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in header["versions"].items() if v)
    rates = header["sgemm_gflops"]
    chip = header.get("gpu") or f"{header['cpu']}, {header['cores']} cores"
    return (
        f"{chip}; {header['date'][:10]}; {versions}; sgemm {rates[0]}-{rates[1]} GF/s and copy "
        f"{header['copy_gb_per_s']} GB/s in the same run"
    )


def documents() -> dict[str, list[tuple[str, dict[str, Any], list[Row]]]]:
    """Machine -> (file, environment, rows) of the suites' JSON files in results/MACHINE/."""
    found: dict[str, list[tuple[str, dict[str, Any], list[Row]]]] = {}
    for path in sorted(RESULTS.glob("*/*.json")):
        if path.stem not in TITLES and path.stem != "critic":
            continue  # another program's results
        header, rows = read_json(path)
        found.setdefault(path.parent.name, []).append((path.name, header, rows))
    return found


def tables() -> str:
    parts = []
    for machine, files in documents().items():
        parts.append(f"### {machine}\n")
        for name, header, rows in files:
            for suite in dict.fromkeys(row.suite for row in rows):
                parts.append(f"**{TITLES.get(suite, suite)}** (`{machine}/{name}`)\n")
                parts.append(header_line(header) + "\n")
                parts.append(suite_table(row for row in rows if row.suite == suite) + "\n")
    return "\n".join(parts) if parts else "not measured yet\n"


# The rivals of the short table, by the name they have there.
RIVALS = {"gauss_newton": "hand-written Gauss-Newton", "jax_jit": "JAX", "sb3": "sb3-contrib"}


def short_table(rows: list[Row]) -> str:
    """The CG solve, ours in every precision and the rivals' times over our fp32."""
    threads = max(row.threads for row in rows)
    kept = [row for row in rows if row.suite == "cg" and row.threads == threads]
    ours = [row for row in kept if row.backend in ("cpu", "cuda")]
    precisions = list(dict.fromkeys(row.precision for row in ours))
    names = ["case", "net", "rows", *precisions, *RIVALS.values()]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for case in dict.fromkeys(row.case for row in ours):
        group = {row.precision: row for row in ours if row.case == case}
        base = group["fp32"]
        shape = CASES[case]
        net = "-".join(map(str, (shape.obs_dim, *shape.hidden, shape.actions)))
        cells = [case, net, f"{base.n}"]
        for precision in precisions:
            row = group.get(precision)
            cells.append(f"{format_time(row.median_us)} ({row.rel_err:.0e})" if row else "")
        cells += [f"{base.ratio[name]:.1f}x" if name in base.ratio else "" for name in RIVALS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary() -> str:
    parts = []
    for machine, files in documents().items():
        for name, header, rows in files:
            if name == "cg.json":
                parts.append(f"`{machine}`: {header_line(header)}.\n\n{short_table(rows)}\n")
    return "\n".join(parts) if parts else "not measured yet\n"


def headline() -> str:
    """The range, over every machine and case, of the rivals' times over ours in fp32."""
    machines, cases = set(), set()
    ratios: dict[str, list[float]] = {name: [] for name in RIVALS}
    for machine, files in documents().items():
        rows = [row for name, _, found in files if name == "cg.json" for row in found]
        rows = [row for row in rows if row.case not in RECORDED_CASES]  # of nets that are there
        threads = max((row.threads for row in rows), default=0)
        for row in rows:
            if row.backend in ("cpu", "cuda") and (row.precision, row.threads) == ("fp32", threads):
                machines.add(machine)
                cases.add(row.case)
                for name in ratios.keys() & row.ratio.keys():
                    ratios[name].append(row.ratio[name])
    if not any(ratios.values()):
        return "not measured yet\n"
    spans = [
        f"{RIVALS[name]} {min(found):.1f} to {max(found):.1f} times"
        for name, found in sorted(ratios.items(), key=lambda item: -max(item[1], default=0.0))
        if found
    ]
    places = f"{len(machines)} machines, {len(cases)} networks"
    return f"**For that solve others take ({places}): {', '.join(spans)} as long.**\n"


def chart(path: Path) -> None:
    """Share of sgemm's rate that the useful flops of the CG solve reach."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = [
        (machine, [row for row in rows if row.suite == "cg"])
        for machine, files in documents().items()
        for _, _, rows in files
        if any(row.suite == "cg" for row in rows)
    ]
    if not runs:
        raise ValueError("results: expected a cg.json of some machine, got none")
    figure, axes = plt.subplots(len(runs), figsize=(9, 3.4 * len(runs)), squeeze=False)
    for axis, (machine, rows) in zip(axes[:, 0], runs, strict=True):
        names = list(dict.fromkeys(contender(row).strip("*") for row in rows))
        cases = list(dict.fromkeys(row.case for row in rows))
        for i, name in enumerate(names):
            share = {row.case: row.efficiency for row in rows if contender(row).strip("*") == name}
            places = [j + (i - len(names) / 2) * 0.8 / len(names) for j in range(len(cases))]
            axis.bar(places, [share.get(c, 0.0) for c in cases], 0.8 / len(names), label=name)
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(cases)), cases)
        axis.set_ylabel("useful flops / sgemm")
        axis.set_title(f"CG solve on {machine}")
        axis.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.png:
        chart(arguments.png)
        return 0
    stale = 0
    front = HERE.parent / "README.md"
    places = ((HERE / "README.md", "results", tables), (front, "results", summary))
    for readme, name, content in (*places, (front, "speed", headline)):
        text = readme.read_text()
        wanted = fill(text, name, content())
        if not arguments.check:
            readme.write_text(wanted)
        elif text != wanted:
            print(f"{readme} differs from the JSON: run python benchmarks/plot.py", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
