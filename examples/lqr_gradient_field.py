"""Draw plain and natural policy gradients of the one-dimensional regulator over (k, sigma).

    python examples/lqr_gradient_field.py [output.png]

s' = s + a, a ~ N(k s, sigma^2), r = -s^2 - a^2; all in closed form (trpo_fast.theory.lqr).
Both ascents take the same number of steps of the same KL, so they differ in direction alone.
"""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from trpo_fast.theory import (
    LQR,
    lqr_fisher,
    lqr_gradient,
    lqr_natural_gradient,
    lqr_return,
    optimal_gain,
)

PROBLEM = LQR(gamma=0.9, initial_moment=0.01)
BEST = optimal_gain(PROBLEM.gamma)
STARTS = [(-0.04, 0.92), (-0.04, 0.45), (-1.1, 0.92), (-1.5, 0.5)]
STEPS, KL = 40, 0.01
K_RANGE, SIGMA_RANGE = (-1.6, 0.0), (0.0, 1.0)
LEVELS = np.geomspace(0.05, 50, 25)

INK, MUTED, FRAME = "#1b2733", "#7b8a99", "#b8c4cf"
SHADES = LinearSegmentedColormap.from_list(
    "regret", ["#fefefe", "#edf3f7", "#d5e2eb", "#b4cad9", "#8fb0c5"]
)


@dataclass(frozen=True)
class Panel:
    title: str
    remark: str
    colour: str
    direction: Callable[[LQR, Tensor, Tensor], Tensor]


PANELS = (
    Panel("Plain gradient", "the noise dies first and k is left behind", "#c4502f", lqr_gradient),
    Panel("Natural gradient", "k arrives, then the noise dies", "#0f7660", lqr_natural_gradient),
)


def ascend(panel: Panel, start: tuple[float, float]) -> np.ndarray:
    """Steps along the panel's direction, each of length sqrt(2 KL) under Fisher: [STEPS + 1, 2]."""
    path = [torch.tensor(start, dtype=torch.float64)]
    for _ in range(STEPS):
        uphill = panel.direction(PROBLEM, *path[-1])
        length = (lqr_fisher(PROBLEM, *path[-1]) * uphill**2).sum().sqrt()
        path.append(path[-1] + (2 * KL) ** 0.5 / length * uphill)
    return torch.stack(path).numpy()


def regret(k: Tensor, sigma: Tensor) -> Tensor:
    """J(k*, 0) - J(k, sigma)."""
    best = torch.tensor(BEST, dtype=torch.float64)
    return lqr_return(PROBLEM, best, torch.zeros_like(best)) - lqr_return(PROBLEM, k, sigma)


def draw_field(axes: Axes, panel: Panel) -> QuadContourSet:
    """Lost return as shades, the direction of ascent as stream lines."""
    k = torch.linspace(*K_RANGE, 201, dtype=torch.float64)
    sigma = torch.linspace(*SIGMA_RANGE, 201, dtype=torch.float64)
    kk, ss = torch.meshgrid(k, sigma.clamp_min(1e-3), indexing="xy")
    shades = axes.contourf(
        kk,
        ss,
        regret(kk, ss).clamp(LEVELS[0], LEVELS[-1]),
        LEVELS,
        cmap=SHADES,
        norm=LogNorm(LEVELS[0], LEVELS[-1]),
    )
    uphill = panel.direction(PROBLEM, kk, ss)
    uphill = (uphill / uphill.norm(dim=-1, keepdim=True)).numpy()
    axes.streamplot(
        k.numpy(),
        sigma.numpy(),
        uphill[..., 0],
        uphill[..., 1],
        color=MUTED,
        linewidth=0.5,
        density=(1.2, 0.9),
        arrowsize=0.65,
        arrowstyle="->",
        zorder=1,
    )
    return shades


def draw_ascents(axes: Axes, panel: Panel) -> None:
    """The four ascents, a dot for every step of the same KL."""
    for start in STARTS:
        path = ascend(panel, start)
        axes.plot(*path.T, color="white", linewidth=5, zorder=3)
        axes.plot(*path.T, color=panel.colour, linewidth=1.6, zorder=4)
        axes.plot(*path[1:].T, ".", color=panel.colour, markersize=5.5, zorder=5)
        axes.plot(*start, "o", color="white", ms=7.5, mec=panel.colour, mew=1.8, zorder=6)
        left = float(regret(*torch.tensor(path[-1])))
        print(
            f"{panel.title:16s} {start} -> ({path[-1][0]:.3f}, {path[-1][1]:.3f}), lost {left:.4f}"
        )


def decorate(axes: Axes, panel: Panel) -> None:
    axes.axvline(BEST, color=INK, linewidth=0.8, linestyle=(0, (1, 3)), zorder=2)
    axes.plot(BEST, 0, "*", color="#f2b705", ms=17, mec=INK, mew=0.9, zorder=8, clip_on=False)
    axes.set(xlim=K_RANGE, ylim=SIGMA_RANGE)
    axes.set_xlabel("feedback gain  $k$", color=INK, labelpad=6)
    axes.set_title(panel.title, color=panel.colour, size=14, weight="bold", loc="left", pad=9)
    axes.set_title(panel.remark, color=MUTED, size=10, loc="right", pad=9)
    axes.tick_params(color=FRAME, labelcolor=INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(FRAME)


def draw() -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 4.7), sharey=True, layout="constrained")
    for each, panel in zip(axes, PANELS, strict=True):
        shades = draw_field(each, panel)
        draw_ascents(each, panel)
        decorate(each, panel)
    axes[0].set_ylabel("exploration noise  $\\sigma$", color=INK, labelpad=6)
    axes[0].annotate(
        f"optimum\n$k^* = {BEST:.3f}$",
        (BEST, 0.0),
        (BEST - 0.045, 0.06),
        color=INK,
        size=8.5,
        ha="right",
        bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
        zorder=9,
    )
    bar = figure.colorbar(shades, ax=axes, shrink=0.92, aspect=34, pad=0.015)
    bar.set_label("lost return  $J^* - J(k, \\sigma)$", color=INK)
    bar.set_ticks([0.1, 1, 10], labels=["0.1", "1", "10"])
    bar.ax.tick_params(color=FRAME, labelcolor=INK, labelsize=9)
    bar.outline.set_edgecolor(FRAME)
    return figure


def main(output: Path) -> None:
    plt.rcParams["font.family"] = "DejaVu Sans"
    picture = io.BytesIO()
    draw().savefig(picture, dpi=130)
    # A palette of 256 colours is plenty for shades of one hue, and a third of the bytes.
    palette = Image.open(picture).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3)
    palette.save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
