"""The phases of a prediction as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from .listing import Instruction
from .timing import Phase, microseconds


def print_phases(
    phases: list[Phase], code: list[Instruction], lines: dict[int, str], spent: int
) -> None:
    """A line for each phase, and the lines of source where its warps stood longest."""

    def place(index: int) -> str:
        return lines.get(code[index].address, f"{code[index].address:#x}")

    print(f"{'until the barrier at':28}{'us':>6}{'bound':>7}{'clocks':>8}{'slots':>7}{'waves':>7}"
          f"{'sectors':>8}  busiest pipes")  # fmt: skip
    for phase in phases:
        name = "(grid barrier)" if phase.grid else place(phase.barrier)
        pipes: dict[str, float] = {}
        for (_, pipe), clocks in phase.pipes.items():
            pipes[pipe] = max(pipes.get(pipe, 0), clocks)
        busiest = sorted(pipes.items(), key=lambda item: -item[1])[:3]
        said = " ".join(f"{pipe} {clocks:.0f}" for pipe, clocks in busiest)
        print(
            f"{name:28}{microseconds([phase]):6.2f}{microseconds([phase], bound=True):7.2f}"
            f"{phase.clocks:8.0f}{phase.slots:7}{phase.wavefronts:7.0f}{phase.sectors:8}  {said}"
        )
        if not phase.grid:
            print_spent(phase, place, spent)


def print_spent(phase: Phase, place: Callable[[int], str], count: int) -> None:
    """The lines at which warps stood longest, in clocks of the mean of eight warps."""
    lines: Counter[str] = Counter()
    for index, clocks in phase.spent.items():
        lines[place(index)] += clocks / 8
    for name, clocks in lines.most_common(count):
        print(f"      {clocks:6.0f} clocks at {name}")
