"""A whole update of Nature's network on image frames against what a user would write: the KL's
gradient differentiated again, conjugate gradient, a line search.

    python benchmarks/pixels.py                     # 2 048 frames of 4 x 84 x 84, uint8
    python benchmarks/pixels.py --rows 256 --repeats 3 --json pixels.json

Both take 10 products at the same damping, in turns in one process; a time is the median.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import kl_divergence

from trpo_fast import Batch, Categorical, CNNPolicy, flat_params, trpo_update
from trpo_fast.bench.harness import thread_count
from trpo_fast.bench.report import environment, format_time

FRAMES = (4, 84, 84)
ACTIONS, PRODUCTS, DAMPING, MAX_KL, RATIO, TRIALS = 6, 10, 0.1, 0.01, 0.8, 10


def work(rows: int, shape: tuple[int, ...] = FRAMES, **net: Any) -> tuple[CNNPolicy, Batch]:
    """A policy whose outputs are far from uniform, and frames with the actions it took."""
    torch.manual_seed(0)
    space = spaces.Box(0, 255, shape, np.uint8)
    policy = CNNPolicy(space, Categorical(ACTIONS), output_gain=1.0, **net)
    obs = torch.randint(256, (rows, *shape), dtype=torch.uint8)
    with torch.no_grad():
        distribution = policy(obs)
        actions = distribution.sample()
        log_probs = distribution.log_prob(actions)
    return policy, Batch(obs, actions, torch.randn(rows), log_probs)


def double_backward(policy: CNNPolicy, batch: Batch) -> float:
    """The update written by hand; the KL of the step it took."""
    parameters, theta = list(policy.parameters()), flat_params(policy)

    def flat(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([part.reshape(-1) for part in parts])

    def surrogate() -> tuple[Any, Tensor]:
        new = policy(batch.obs)
        ratio = (new.log_prob(batch.actions) - batch.log_probs).exp()
        return new, (ratio * batch.advantages).mean()

    new, value = surrogate()
    with torch.no_grad():
        old = policy(batch.obs)
    before, g = value.item(), flat(torch.autograd.grad(value, parameters, retain_graph=True))
    kl = kl_divergence(old, new).mean()
    slope = flat(torch.autograd.grad(kl, parameters, create_graph=True))
    x, r, p = torch.zeros_like(g), g, g
    rr = r @ r
    for _ in range(PRODUCTS):
        z = flat(torch.autograd.grad(slope @ p, parameters, retain_graph=True)) + DAMPING * p
        alpha = rr / (p @ z)
        x, r = x + alpha * p, r - alpha * z
        rr_next = r @ r
        p, rr = r + (rr_next / rr) * p, rr_next
    step = math.sqrt(2.0 * MAX_KL / float(x @ (g - r))) * x
    start = theta.clone()
    with torch.no_grad():
        for j in range(TRIALS):
            theta.copy_(start + RATIO**j * step)
            new, value = surrogate()
            kl_now = kl_divergence(old, new).mean().item()
            if kl_now <= MAX_KL and value.item() > before:
                return kl_now
        theta.copy_(start)
    return 0.0


def ours(policy: CNNPolicy, batch: Batch) -> float:
    """The KL of the step."""
    options: dict[str, Any] = {"max_kl": MAX_KL, "damping": DAMPING, "cg_iterations": PRODUCTS}
    return trpo_update(policy, batch, **options).kl


def run(rows: int, repeats: int, **net: Any) -> dict[str, Any]:
    """Medians and what the steps were; each update starts from the same parameters."""
    policy, batch = work(rows, **net)
    theta, start = flat_params(policy), flat_params(policy).clone()
    calls = {"double_backward": double_backward, "trpo_fast": ours}
    times: dict[str, list[float]] = {name: [] for name in calls}
    kls, ends = {}, {}
    for _ in range(repeats):
        for name, call in calls.items():
            theta.copy_(start)
            begin = time.perf_counter()
            kls[name] = call(policy, batch)
            times[name].append(time.perf_counter() - begin)
            ends[name] = theta - start
    difference = (ends["trpo_fast"] - ends["double_backward"]).norm()
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "rows": rows,
        "p": theta.numel(),
        "threads": torch.get_num_threads(),
        "median_us": {name: round(1e6 * median, 1) for name, median in medians.items()},
        "ratio": round(medians["double_backward"] / medians["trpo_fast"], 2),
        "kl": kls,
        "steps_differ_by": float(difference / ends["double_backward"].norm()),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(argv)
    with thread_count(options.threads):
        found = run(options.rows, options.repeats)
        if options.json is not None:
            text = json.dumps({"environment": environment("cpu"), **found}, indent=1)
            options.json.write_text(text + "\n")
    shown = {name: format_time(median) for name, median in found["median_us"].items()}
    print(f"{found['rows']} frames, {found['p']} parameters, {found['threads']} threads: {shown}")
    print(f"{found['ratio']}x; the steps differ by {found['steps_differ_by']:.1e}")


if __name__ == "__main__":
    main()
