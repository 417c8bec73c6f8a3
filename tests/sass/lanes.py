"""Exchange between the lanes of a warp, special registers, and what only orders."""

from __future__ import annotations

import numpy as np

from .arithmetic import is_predicate, operation
from .listing import Instruction
from .machine import SHARED_WINDOW, Machine
from .requests import everyone


def first_lane(active: np.ndarray) -> np.ndarray:
    """For every lane the first active one of its warp, else the warp's first."""
    first = active.reshape(-1, 32).argmax(axis=1)
    return np.repeat(first + 32 * np.arange(len(first)), 32)


@operation("S2R", "S2UR")
def special_register(m: Machine, ins: Instruction):
    lane = np.arange(m.lanes, dtype=np.uint32)
    values = {
        "SR_TID.X": lane,
        "SR_LANEID": lane % np.uint32(32),
        "SR_LTMASK": (np.uint32(1) << lane % np.uint32(32)) - np.uint32(1),
        "SR_SWINHI": np.full(m.lanes, SHARED_WINDOW, np.uint32),
    }
    value = values.get(ins.operands[1], np.zeros(m.lanes, np.uint32))
    write = m.writer(ins.operands[0])
    return lambda mask: write(value, mask)


@operation("R2UR")
def to_uniform(m: Machine, ins: Instruction):
    operands = [s for s in ins.operands if not s.endswith("PT")]
    read, write = m.reader(operands[1]), m.writer(operands[0])
    return lambda mask: write(read()[first_lane(everyone(m, mask))], mask)


@operation("SHFL")
def shuffle(m: Machine, ins: Instruction):
    _, to, source, lane, clamp = ins.operands
    write, read, which = m.writer(to), m.reader(source), m.reader(lane)
    assert clamp == "0x1f", ins
    own = np.arange(m.lanes)
    word = ins.words[1]

    def run(mask):
        n = np.broadcast_to(np.asarray(which()).astype(np.int64), (m.lanes,))
        target = {"BFLY": own % 32 ^ n, "IDX": n, "DOWN": own % 32 + n, "UP": own % 32 - n}[word]
        inside = (target >= 0) & (target < 32)
        write(read()[np.where(inside, own // 32 * 32 + target, own)], mask)

    return run


@operation("REDUX")
def warp_reduction(m: Machine, ins: Instruction):
    read, write = m.reader(ins.operands[1]), m.writer(ins.operands[0])
    signed = "S32" in ins.words
    reduce = {"MAX": np.max, "MIN": np.min, "SUM": np.sum, "OR": np.bitwise_or.reduce}[ins.words[1]]

    def run(mask):
        value = read().view(np.int32 if signed else np.uint32).reshape(-1, 32)
        write(np.repeat(reduce(value, axis=1), 32), mask)

    return run


@operation("VOTEU", "VOTE")
def vote(m: Machine, ins: Instruction):
    """VOTE.ANY R0, P0, P1: the lanes where P1 holds to R0, whether any (or all) of them to P0."""
    *results, source = ins.operands
    asked, word = m.predicate(source), ins.words[1]
    lanes = [m.writer(r) for r in results if not is_predicate(r)]
    truth = [m.predicate_writer(r) for r in results if is_predicate(r)]

    def run(mask):
        active = everyone(m, mask)
        yes = (active & asked()).reshape(-1, 32)
        bits = (yes * (np.uint64(1) << np.arange(32, dtype=np.uint64))).sum(axis=1)
        held = (yes == active.reshape(-1, 32)).all(axis=1) if word == "ALL" else yes.any(axis=1)
        for write in lanes:
            write(np.repeat(bits.astype(np.uint32), 32), mask)
        for put in truth:
            put(np.repeat(held, 32), mask)

    return run


QUIET = ("NOP", "YIELD", "MEMBAR", "ERRBAR", "CGAERRBAR", "DEPBAR", "LDGDEPBAR")
QUIET += ("FENCE",)


@operation(*QUIET)
def nothing(m: Machine, ins: Instruction):
    return lambda mask: None
