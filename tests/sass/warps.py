"""The order of execution: branches, convergence, barriers of the block.

Groups of threads that are at one instruction advance together; those that diverge meet again where
the compiler says so (BSSY, BSYNC) or at the block's barrier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import floats, lanes, logic, requests  # noqa: F401  (they register their operations)
from .arithmetic import OPERATIONS
from .listing import Instruction
from .machine import Group, Machine, Step


@dataclass
class Convergence:
    """Who meets at a BSYNC, and who has arrived."""

    members: np.ndarray
    arrived: np.ndarray
    pc: int = -1


class Runner:
    """Runs a machine until every thread has left, or until a number of grid barriers."""

    def __init__(self, machine: Machine, stop_after: int = 1 << 30) -> None:
        self.m = machine
        self.code = machine.code
        self.compiled: dict[int, object] = {}
        self.ready = [Group(0, np.ones(machine.lanes, bool))]
        self.alive = np.ones(machine.lanes, bool)
        self.meetings: list[Convergence] = []
        self.meeting_of = np.full((16, machine.lanes), -1)
        self.at_barrier: list[Group] = []
        self.gathering: dict[int, np.ndarray] = {}  # lanes that wait for the rest of their warp
        self.stop_after = stop_after

    def run(self) -> None:
        with np.errstate(all="ignore"):
            while self.ready and self.m.grid_barriers < self.stop_after:
                self.advance(self.ready.pop())

    def target(self, text: str) -> int:
        return self.m.at[int(text, 16)]

    def advance(self, group: Group) -> None:
        """Runs a group until it waits, splits or leaves."""
        m, full = self.m, bool(group.mask.all())
        warps = group.mask.reshape(-1, 32).any(axis=1)
        while True:
            index = group.pc
            ins = self.code[index]
            if ins.guard:
                held = m.predicate(("!" if ins.negated else "") + ins.guard)()
                mask = group.mask & held
            else:
                mask = None if full else group.mask
            control = CONTROL.get(ins.name)
            if control:
                m.trace.append(Step(index, warps))
                if not control(self, group, ins, group.mask if mask is None else mask):
                    return
                continue
            execute = self.compiled.get(index)
            if execute is None:
                if ins.name not in OPERATIONS:
                    raise NotImplementedError(f"{ins.address:#x}: {'.'.join(ins.words)}")
                execute = self.compiled[index] = OPERATIONS[ins.name](m, ins)
            m.space, m.cost = "", None
            execute(mask)
            m.trace.append(Step(index, warps, m.space, m.cost))
            group.pc = index + 1

    def put(self, pc: int, mask: np.ndarray) -> None:
        if mask.any():
            self.ready.append(Group(pc, mask))

    def jump(self, group: Group, pc: int, taken: np.ndarray) -> bool:
        """Some of a group branch. True if all of them did, or none."""
        stay = group.mask & ~taken
        if not stay.any():
            group.pc = pc
            return True
        if not taken.any():
            group.pc += 1
            return True
        self.put(pc, taken.copy())
        self.put(group.pc + 1, stay)
        return False

    def meet(self, number: int) -> None:
        meeting = self.meetings[number]
        waiting = meeting.members & self.alive
        if meeting.pc >= 0 and waiting.any() and not (waiting & ~meeting.arrived).any():
            pc, meeting.pc = meeting.pc, -1
            self.put(pc, waiting)

    def gather(self, group: Group) -> bool:
        """Goes on with whole warps. True if the group has no others."""
        alive = self.alive.reshape(-1, 32)
        come = group.mask | self.gathering.pop(group.pc, self.m.none)
        ready = (~alive | come.reshape(-1, 32)).all(axis=1)
        whole = come & np.repeat(ready, 32)
        if (whole == group.mask).all():
            group.pc += 1
            return True
        self.gathering[group.pc] = come & ~whole
        self.put(group.pc + 1, whole)
        return False

    def release_block(self) -> None:
        waiting = np.zeros(self.m.lanes, bool)
        for group in self.at_barrier:
            waiting |= group.mask
        if self.at_barrier and not (self.alive & ~waiting).any():
            places = {group.pc for group in self.at_barrier}
            assert len(places) == 1, f"a barrier reached at {places}"
            self.put(self.at_barrier[0].pc, waiting)
            self.at_barrier = []


def branch(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    if "DIV" in ins.words:  # to where lanes that are apart are brought together
        return run.gather(group)
    operands = list(ins.operands)
    if len(operands) > 1:  # BRA P1, target or BRA.U UP0, target
        mask = mask & run.m.predicate(operands[0])()
    return run.jump(group, run.target(operands[-1].split()[-1]), mask)


def jump_by_register(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    register, _, base = ins.operands[0].partition(" ")
    value = run.m.r[int(register[1:])].view(np.int32).astype(np.int64)
    if ins.name == "BRX":
        value = value + ins.address + 16 + int(base.replace(" ", ""), 16)
    pieces = np.unique(value[mask])
    if len(pieces) == 1:
        return run.jump(group, run.m.at[int(pieces[0])], mask)
    for piece in pieces:
        run.put(run.m.at[int(piece)], mask & (value == piece))
    run.put(group.pc + 1, group.mask & ~mask)
    return False


def begin_region(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    run.meeting_of[int(ins.operands[0][1:]), group.mask] = len(run.meetings)
    run.meetings.append(Convergence(group.mask.copy(), np.zeros(run.m.lanes, bool)))
    group.pc += 1
    return True


def end_region(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    numbers = run.meeting_of[int(ins.operands[0][1:])]
    for number in np.unique(numbers[group.mask]):
        meeting = run.meetings[number]
        meeting.arrived |= group.mask & (numbers == number)
        meeting.pc = group.pc + 1
        run.meet(number)
    return False


def leave_region(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    numbers = run.meeting_of[int(ins.operands[-1][1:])]
    for number in np.unique(numbers[mask]):
        run.meetings[number].members &= ~mask
        run.meet(number)
    group.pc += 1
    return True


def block_barrier(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    run.at_barrier.append(Group(group.pc + 1, group.mask))
    run.release_block()
    return False


def leave(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    run.alive &= ~mask
    stay = group.mask & ~mask
    run.put(group.pc + 1, stay)
    for number in range(len(run.meetings)):
        run.meet(number)
    run.release_block()
    return False


def call(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    return run.jump(group, run.target(ins.operands[-1].split()[-1]), mask)


def gather_warps(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    assert ins.words[1:] == ("ALL",), "collectives of lanes that are apart are not modelled"
    return run.gather(group)


def trap(run: Runner, group: Group, ins: Instruction, mask: np.ndarray) -> bool:
    raise RuntimeError(f"the kernel traps at {ins.address:#x}")


CONTROL = {
    "BRA": branch,
    "BRX": jump_by_register,
    "RET": jump_by_register,
    "BSSY": begin_region,
    "BSYNC": end_region,
    "BREAK": leave_region,
    "BAR": block_barrier,
    "EXIT": leave,
    "CALL": call,
    "WARPSYNC": gather_warps,
    "BPT": trap,
}
