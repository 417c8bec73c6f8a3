"""Solves with modules of one's own against what their owner would write: double backward.

    python benchmarks/modules.py run            # -> results/MACHINE/modules.json
    python benchmarks/modules.py table          # the table of README.md

A call makes the operator and solves (F + damping I) x = g with 10 products. Every contender of a
module takes its turn in one process; a time is the median of a contender's calls, an error that of
x against float64.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from marked import fill
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

from trpo_fast import FisherOperator, Gaussian, MLPPolicy, flat_params
from trpo_fast.bench.harness import Contender, measure, thread_count
from trpo_fast.bench.report import environment, format_time, machine_name
from trpo_fast.bench.suite import relative_error

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE / "README.md"
DAMPING, PRODUCTS, STD = 0.1, 10, 0.6


class Gaussians(nn.Module):
    """What a body says of an observation as means, and one scale an action."""

    def __init__(self, body: nn.Module, actions: int) -> None:
        super().__init__()
        self.body = body
        self.log_std = nn.Parameter(torch.full((actions,), STD).log())

    def forward(self, obs: Tensor) -> Distribution:
        mean = self.body(obs)
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1)


class Choices(nn.Module):
    """What a body says of an observation as logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, obs: Tensor) -> Distribution:
        return Categorical(logits=self.body(obs))


def net(*widths: int) -> nn.Module:
    """tanh between linear maps."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += (nn.Linear(widths[i], widths[i + 1]), nn.Tanh())
    return Gaussians(nn.Sequential(*layers[:-1]), widths[-1])


def convolutions() -> nn.Module:
    """The net of the Atari papers, six actions."""
    trunk = (nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU())
    last = (nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten())
    net = (nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6))
    return Choices(nn.Sequential(*trunk, *last, *net))


def cell() -> nn.Module:
    """One step of a GRU from a state of zeros, before a linear map."""
    return Gaussians(nn.Sequential(nn.GRUCell(11, 64), nn.Linear(64, 3)), 3)


@dataclass(frozen=True)
class Case:
    """A module and the shape of a batch of its rows."""

    name: str
    make: Callable[[], nn.Module]
    rows: int
    shape: tuple[int, ...]
    widths: tuple[int, ...] = ()  # where it is a net that MLPPolicy is as well


def _net_case(rows: int, *widths: int) -> Case:
    name = "-".join(map(str, widths))
    return Case(name, lambda: net(*widths), rows, widths[:1], widths)


CASES = (
    _net_case(2_048, 11, 64, 64, 3),
    _net_case(8_192, 17, 64, 64, 6),
    _net_case(4_096, 60, 256, 256, 8),
    Case("cnn", convolutions, 128, (4, 84, 84)),
    Case("gru_cell", cell, 2_048, (11,)),
)


def double_backward(module: nn.Module, obs: Tensor, g: Tensor) -> Tensor:
    """The KL's gradient once, with its graph, and conjugate gradient on passes back through it."""
    parameters = list(module.parameters())
    new = module(obs)
    with torch.no_grad():
        old = module(obs)
    kl = kl_divergence(old, new).mean()
    slopes = torch.autograd.grad(kl, parameters, create_graph=True)
    slope = torch.cat([part.reshape(-1) for part in slopes])
    x, r, p = torch.zeros_like(g), g, g
    rr = r @ r
    for _ in range(PRODUCTS):
        parts = torch.autograd.grad(slope @ p, parameters, retain_graph=True)
        z = torch.cat([part.reshape(-1) for part in parts]) + DAMPING * p
        alpha = rr / (p @ z)
        x, r = x + alpha * p, r - alpha * z
        rr_next = r @ r
        p, rr = r + (rr_next / rr) * p, rr_next
    return x


def solve(policy: nn.Module, obs: Tensor, g: Tensor, backend: Any) -> Tensor:
    """Ours, with the operator made anew."""
    F = FisherOperator(policy, obs, damping=DAMPING, backend=backend)
    return F.solve(g, iterations=PRODUCTS).x


def as_policy(case: Case, module: nn.Module) -> MLPPolicy:
    """The same net as the package's own policy."""
    policy = MLPPolicy(case.widths[0], Gaussian(case.widths[-1]), case.widths[1:-1], "tanh")
    parameters = dict(module.named_parameters())
    log_std = parameters.pop("log_std")
    ordered = [p.detach().reshape(-1) for p in (*parameters.values(), log_std)]
    flat_params(policy).copy_(torch.cat(ordered))
    return policy.to(log_std.device)


def run_case(case: Case, device: str, rows: int | None, seconds: float) -> dict[str, Any]:
    """Times, errors and the backend that "auto" took, of one module."""
    torch.manual_seed(0)
    module = case.make().to(device)
    obs = torch.randn(min(case.rows, rows or case.rows), *case.shape).to(device)
    g = (0.01 * torch.randn(flat_params(module).numel())).to(device)
    exact = double_backward(copy.deepcopy(module).double(), obs.double(), g.double())
    calls: dict[str, Callable[[], Tensor]] = {
        "double_backward": lambda: double_backward(module, obs, g),
        "auto": lambda: solve(module, obs, g, "auto"),
        "reference": lambda: solve(module, obs, g, "reference"),
        "autograd": lambda: solve(module, obs, g, "autograd"),
    }
    errors = {name: relative_error(call(), exact) for name, call in calls.items()}
    if case.widths:
        policy = as_policy(case, module)
        turned = torch.cat([g[case.widths[-1] :], g[: case.widths[-1]]])
        calls["MLPPolicy"] = lambda: solve(policy, obs, turned, "auto")
        x = calls["MLPPolicy"]().roll(case.widths[-1])
        errors["MLPPolicy"] = relative_error(x, exact)
    contenders = [Contender(name, "fp32", call) for name, call in calls.items()]
    measure(contenders, seconds=seconds, device=device)
    medians = {c.name: c.median for c in contenders}
    return {
        "case": case.name,
        "n": len(obs),
        "p": g.numel(),
        "threads": torch.get_num_threads(),
        "backend": FisherOperator(module, obs).backend,
        "median_us": {name: round(1e6 * time, 1) for name, time in medians.items()},
        "rel_err": {name: float(f"{error:.3g}") for name, error in errors.items()},
    }


def run(options: argparse.Namespace) -> Path:
    """Every case, written after each."""
    rows: list[dict[str, Any]] = []
    with thread_count(options.threads):
        header = environment(options.device)
        path: Path = options.json or RESULTS / machine_name(header) / "modules.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        for case in CASES:
            if options.case and case.name not in options.case:
                continue
            rows.append(run_case(case, options.device, options.rows, options.seconds))
            print(line(rows[-1]), flush=True)
            path.write_text(json.dumps({"environment": header, "rows": rows}, indent=1) + "\n")
    return path


NAMES = ("double_backward", "MLPPolicy", "autograd", "reference", "auto")


def line(row: dict[str, Any]) -> str:
    """One module as a line of the table."""
    times = row["median_us"]
    cells = [row["case"], f"{row['n']}", f"{row['p']}"]
    cells += [format_time(times[name]) if name in times else "" for name in NAMES]
    factor = times["double_backward"] / times["auto"]
    cells += [row["backend"], f"{factor:.2f}x", f"{row['rel_err']['auto']:.0e}"]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """Every machine's."""
    parts = []
    for path in sorted(RESULTS.glob("*/modules.json")):
        read = json.loads(path.read_text())
        header = read["environment"]
        threads = read["rows"][0]["threads"]
        where = f"`{path.parent.name}`: {header['cpu']}, torch {header['versions']['torch']}"
        names = ["module", "N", "P", *NAMES, "auto takes", "double backward over auto", "error"]
        head = f"| {' | '.join(names)} |\n" + "|---" * len(names) + "|"
        lines = [head, *map(line, read["rows"])]
        parts.append(f"{where}, {threads} threads, {header['date'][:10]}.\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n" if parts else "not measured yet\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--case", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--rows", type=int, help="at most so many of every module")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each contender of a module")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(argv)
    if options.command == "run":
        print(f"written: {run(options)}")
        return
    README.write_text(fill(README.read_text(), "modules", table()))


if __name__ == "__main__":
    main()
