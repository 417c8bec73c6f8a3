"""When the warps of a block issue what they execute, on four schedulers with in-order issue.

A warp issues its next instruction once the stall of the one before is over, the barriers of the
scoreboard that it waits for are down, its scheduler is free and the pipe that it needs as well. Of
several warps that could, the one that could first does. Shared memory serves one wavefront a clock
for all schedulers, L2 a sector in a fixed number of clocks.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from . import hardware as h
from .listing import NO_BARRIER, Instruction
from .machine import GLOBAL, LOCAL, Step

Request = tuple[int, str, float]  # instruction, space, cost of one warp


@dataclass
class Phase:
    """From one barrier of the block to the next."""

    barrier: int  # index of the instruction that ends it
    start: float
    end: float = 0
    issued: Counter = field(default_factory=Counter)  # by scheduler
    pipes: Counter = field(default_factory=Counter)  # clocks, by scheduler and pipe
    wavefronts: float = 0
    sectors: int = 0
    spent: Counter = field(default_factory=Counter)  # clocks of warps that stood at an instruction
    grid: bool = False

    @property
    def clocks(self) -> float:
        return self.end - self.start

    @property
    def slots(self) -> int:
        """Instructions of the busiest scheduler."""
        return max(self.issued.values(), default=0)

    @property
    def bound(self) -> float:
        """Clocks that the fullest piece of hardware needs, whatever the order."""
        pipes = max(self.pipes.values(), default=0.0)
        l2 = h.L2_CLOCKS_A_SECTOR * self.sectors
        return self.clocks if self.grid else max(self.slots, pipes, self.wavefronts, l2)


def microseconds(phases: list[Phase], bound: bool = False) -> float:
    """How long phases take, or what the fullest piece of hardware needs for them."""
    return sum(p.bound if bound else p.clocks for p in phases) / h.CLOCK_GHZ / 1000


@dataclass
class Clock:
    """Times at which the shared pieces of a multiprocessor are free again."""

    scheduler: list[float] = field(default_factory=lambda: [0.0] * h.SCHEDULERS)
    pipe: dict[tuple[int, str], float] = field(default_factory=dict)
    shared: float = 0
    l2: float = 0


class Simulation:
    def __init__(self, code: list[Instruction], trace: list[Step], warps: int) -> None:
        self.code = code
        self.steps = self.by_warp(trace, warps)
        self.warps = warps
        self.clock = Clock()
        self.phases: list[Phase] = []

    @staticmethod
    def by_warp(trace: list[Step], warps: int) -> list[list[Request]]:
        """What each warp executes, in order, with the cost of its memory requests."""
        found: list[list[Request]] = [[] for _ in range(warps)]
        for step in trace:
            cost = step.cost
            for w in np.flatnonzero(step.warps):
                found[w].append((step.index, step.space, 0 if cost is None else float(cost[w])))
        return found

    def run(self) -> list[Phase]:
        warps = range(self.warps)
        self.place = [0] * self.warps
        self.free = [0.0] * self.warps
        self.issued = [0.0] * self.warps  # the last instruction, or the end of a barrier
        self.boards = [[0.0] * 6 for _ in warps]
        self.phase = Phase(-1, 0.0)
        while True:
            arrivals = self.until_barrier()
            end = max(arrivals.values(), default=self.phase.start)
            self.phase.end = end + h.BARRIER_CLOCKS
            self.phases.append(self.phase)
            if not arrivals or any(self.place[w] >= len(self.steps[w]) for w in warps):
                return self.phases
            if self.phase.grid:
                self.phase.end = self.phase.start + h.GRID_BARRIER_US * h.CLOCK_GHZ * 1000
            now = self.phase.end
            self.free = [now] * self.warps
            self.issued = [now] * self.warps
            self.clock = Clock([now] * h.SCHEDULERS, {}, now, now)
            self.boards = [[min(t, now) if self.phase.grid else t for t in b] for b in self.boards]
            self.phase = Phase(-1, now)

    def until_barrier(self) -> dict[int, float]:
        """Issues until every warp stands behind a barrier of the block; when each arrived there."""
        arrivals: dict[int, float] = {}
        queue = [(self.free[w], w) for w in range(self.warps)]
        heapq.heapify(queue)
        while queue:
            key, w = heapq.heappop(queue)
            if self.place[w] >= len(self.steps[w]):
                arrivals[w] = key
                continue
            index, space, cost = self.steps[w][self.place[w]]
            ins = self.code[index]
            time = self.earliest(w, ins)
            if queue and time > queue[0][0] and time > key:
                heapq.heappush(queue, (time, w))
                continue
            self.issue(w, ins, time, space, cost)
            self.place[w] += 1
            if ins.name == "BAR":
                self.phase.barrier = index
                arrivals[w] = time
            else:
                heapq.heappush(queue, (self.free[w], w))
        return arrivals

    def earliest(self, w: int, ins: Instruction) -> float:
        time = max(self.free[w], self.clock.scheduler[w % h.SCHEDULERS])
        if ins.waits:
            for i in range(6):
                if ins.waits >> i & 1:
                    time = max(time, self.boards[w][i])
        pipe = h.PIPE_OF.get(ins.name)
        if pipe:
            time = max(time, self.clock.pipe.get((w % h.SCHEDULERS, pipe), 0.0))
        return time

    def issue(self, w: int, ins: Instruction, time: float, space: str, cost: float) -> None:
        scheduler = w % h.SCHEDULERS
        self.clock.scheduler[scheduler] = time + 1
        self.phase.spent[self.steps[w][self.place[w]][0]] += time - self.issued[w]
        self.issued[w] = time
        self.free[w] = time + max(ins.stall, 1)
        self.phase.issued[scheduler] += 1
        done = time + h.REGISTER_LATENCY
        pipe = h.PIPE_OF.get(ins.name)
        if pipe:
            clocks = h.PIPE_CLOCKS[pipe]
            self.clock.pipe[scheduler, pipe] = time + clocks
            self.phase.pipes[scheduler, pipe] += clocks
            done = time + (h.SPECIAL_LATENCY if pipe == h.SPECIAL else 0) + clocks
        elif space:
            done = self.request(time, space, cost)
        elif ins.name == "SHFL":
            done = self.take_shared(time, 1) + h.SHUFFLE_LATENCY
        elif ins.name == "ATOM":
            self.phase.grid = True
        elif ins.name == "REDUX":
            done = time + h.REDUCE_LATENCY
        elif ins.name == "LDC":
            done = time + h.CONSTANT_LATENCY
        board = self.boards[w]
        if ins.write_barrier != NO_BARRIER:
            board[ins.write_barrier] = max(board[ins.write_barrier], done)
        if ins.read_barrier != NO_BARRIER:
            board[ins.read_barrier] = max(board[ins.read_barrier], time + h.OPERANDS_READ)

    def take_shared(self, time: float, wavefronts: float) -> float:
        """When the last of so many wavefronts is under way."""
        begin = max(time, self.clock.shared)
        self.clock.shared = begin + wavefronts
        self.phase.wavefronts += wavefronts
        return begin + wavefronts - 1

    def request(self, time: float, space: str, cost: float) -> float:
        """When a request to memory is served."""
        if space != GLOBAL:
            latency = h.L1_LATENCY if space == LOCAL else h.SHARED_LATENCY
            return self.take_shared(time, cost) + latency if cost else time
        if cost < 0:
            return time
        begin = self.take_shared(time, 1)
        if cost == 0:
            return begin + h.L1_LATENCY
        self.phase.sectors += int(cost)
        self.clock.l2 = max(begin, self.clock.l2) + h.L2_CLOCKS_A_SECTOR * cost
        return self.clock.l2 + h.L2_LATENCY
