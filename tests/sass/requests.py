"""Requests to memory: what they read and write, and what each warp's costs.

Shared memory: a request takes as many wavefronts as the fullest of 32 four-byte banks has distinct
words. Global memory: as many sectors of 32 bytes as it touches. tests/emulation/memory.cpp counts
the same.
"""

from __future__ import annotations

import re

import numpy as np

from .arithmetic import operation
from .listing import Instruction
from .machine import GLOBAL, LOCAL, SHARED, SHARED_WINDOW, ZERO, Machine

_known: dict[tuple, int] = {}


def paired(address: np.ndarray, active: np.ndarray, bit: int) -> bool:
    lanes = np.arange(32)
    other = lanes ^ bit
    return bool(np.all(~active | ~active[other] | (address == address[other])))


def wavefronts(address: np.ndarray, active: np.ndarray, size: int) -> int:
    """Of one warp's request; eight- and sixteen-byte ones are served by half and quarter warps."""
    if not active.any():
        return 0
    base = int(address[active].min()) & ~127
    relative = np.where(active, address - base, -1)
    key = (size, relative.tobytes())
    if key in _known:
        return _known[key]
    lanes = 32 if size <= 4 else 128 // size
    if size > 4 and (paired(address, active, 1) or paired(address, active, 2)):
        lanes *= 2
    total = 0
    for first in range(0, 32, lanes):
        chosen = relative[first : first + lanes]
        chosen = chosen[chosen >= 0]
        words = np.unique((chosen[:, None] + np.arange(0, size, 4)) // 4)
        total += int(np.bincount(words % 32).max()) if len(words) else 0
    _known[key] = total
    return total


def wavefronts_by_warp(m: Machine, address: np.ndarray, active: np.ndarray, size: int) -> None:
    m.space = SHARED
    m.cost = np.array(
        [wavefronts(address[w : w + 32], active[w : w + 32], size) for w in range(0, m.lanes, 32)]
    )


def sectors_by_warp(m: Machine, address, active: np.ndarray, size: int, kept: bool) -> None:
    """Sectors that come from L2, or go there; `kept`: L1 may have them, and has them afterwards."""
    m.space = GLOBAL
    m.cost = np.full(m.lanes // 32, -1)
    for w in range(m.lanes // 32):
        chosen = address[32 * w : 32 * w + 32][active[32 * w : 32 * w + 32]]
        if len(chosen):
            touched = set((chosen // 32).tolist()) | set(((chosen + size - 1) // 32).tolist())
            m.cost[w] = len(touched - m.l1 if kept else touched)
            if kept:
                m.l1 |= touched


def size_of(ins: Instruction) -> int:
    for word, size in (("128", 16), ("64", 8), ("U8", 1), ("S8", 1), ("U16", 2), ("S16", 2)):
        if word in ins.words:
            return size
    return 4


def address_reader(m: Machine, text: str):
    inside = re.findall(r"\[([^]]*)\]", text)[-1]
    registers, number = m.address_parts(inside)
    return lambda: m.sum_of(registers, number)


def everyone(m: Machine, mask) -> np.ndarray:
    return np.ones(m.lanes, bool) if mask is None else mask


def move_words(m: Machine, array: np.ndarray, at: np.ndarray, active: np.ndarray, ins, load: bool):
    """Between registers and words of an array, for the active lanes."""
    text = ins.operands[0] if load else ins.operands[-1]
    first = ZERO if text == "RZ" else int(text.lstrip("R"))
    size = size_of(ins)
    where = np.where(active, at // 4, 0)
    if not load and not active.all():
        chosen = np.flatnonzero(active)
        for i in range(max(size // 4, 1)):
            row = m.r[first + i if first != ZERO else ZERO]
            array[where[chosen] + i] = row[chosen]
        return
    for i in range(max(size // 4, 1)):
        if load and first != ZERO:
            value = array[where + i]
            if size < 4:
                value = value >> (8 * (at % 4)).astype(np.uint32) & np.uint32(256**size - 1)
            np.copyto(m.r[first + i], value, where=active)
        elif not load:
            array[where + i] = m.r[first + i if first != ZERO else ZERO]


@operation("LDS", "STS")
def shared(m: Machine, ins: Instruction):
    load = ins.name == "LDS"
    read = address_reader(m, ins.operands[1 if load else 0])
    size = size_of(ins)

    def run(mask):
        active, at = everyone(m, mask), read() & 0xFFFFFF
        wavefronts_by_warp(m, at, active, size)
        move_words(m, m.shared, at, active, ins, load)

    return run


@operation("LDSM")
def load_matrices(m: Machine, ins: Instruction):
    """Matrices of 8 x 8 halves: eight lanes each name the rows of one, a register holds its share.
    A matrix is a request of eight lanes by itself.
    """
    count, transposed = int(ins.words[-1]), "MT88" in ins.words
    read, first = address_reader(m, ins.operands[1]), int(ins.operands[0].lstrip("R"))
    lane = np.arange(m.lanes)
    warp, group, pair = lane // 32 * 32, lane % 32 // 4, lane % 4

    def halves(at: np.ndarray, i: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        byte = at[warp + 8 * i + row] + 2 * column
        return m.shared[byte // 4] >> (8 * (byte % 4)).astype(np.uint32) & np.uint32(0xFFFF)

    def run(mask):
        active = everyone(m, mask)
        at = np.where(active, read() & 0xFFFFFF, 0)
        m.space, m.cost = SHARED, np.zeros(m.lanes // 32, int)
        for w in range(m.lanes // 32):
            for i in range(count if active[32 * w] else 0):
                rows = at[32 * w + 8 * i :][:8]
                words = np.unique((rows[:, None] + np.arange(0, 16, 4)) // 4)
                m.cost[w] += int(np.bincount(words % 32).max())
        for i in range(count):
            if transposed:
                low, high = (halves(at, i, 2 * pair + j, group) for j in (0, 1))
            else:
                low, high = (halves(at, i, group, 2 * pair + j) for j in (0, 1))
            np.copyto(m.r[first + i], low | high << np.uint32(16), where=active)

    return run


@operation("LDG", "STG", "LD", "ST")
def global_memory(m: Machine, ins: Instruction):
    load = ins.name[0] == "L"
    read = address_reader(m, ins.operands[1 if load else 0])
    size, kept = size_of(ins), load and "STRONG" not in ins.words

    def run(mask):
        active, at = everyone(m, mask), read()
        if active.any() and (at[active][0] >> 32) == SHARED_WINDOW:
            at = at & 0xFFFFFF
            wavefronts_by_warp(m, at, active, size)
            move_words(m, m.shared, at, active, ins, load)
            return
        at = at - m.launch.arena
        inside = (at >= 0) & (at < m.launch.memory.nbytes)
        if (active & ~inside).any():
            raise IndexError(f"{ins.address:#x}: outside of the arena: {at[active][:4]}")
        sectors_by_warp(m, at, active, size, kept)
        move_words(m, m.launch.memory, at, active, ins, load)

    return run


@operation("LDL", "STL")
def local(m: Machine, ins: Instruction):
    load = ins.name == "LDL"
    read = address_reader(m, ins.operands[1 if load else 0])
    lanes = np.arange(m.lanes)

    def run(mask):
        active, at = everyone(m, mask), read()
        m.space, m.cost = LOCAL, np.full(m.lanes // 32, max(size_of(ins) // 4, 1))
        flat = m.local.reshape(-1)
        text = ins.operands[0] if load else ins.operands[-1]
        first = ZERO if text == "RZ" else int(text.lstrip("R"))
        for i in range(max(size_of(ins) // 4, 1)):
            where = np.where(active, (at // 4 + i) % len(m.local) * m.lanes + lanes, lanes)
            if load:
                np.copyto(m.r[first + i], flat[where], where=active)
            else:
                flat[where[active]] = m.r[first + i if first != ZERO else ZERO][active]

    return run


@operation("LDGSTS")
def copy_to_shared(m: Machine, ins: Instruction):
    to, source = (address_reader(m, s) for s in ins.operands[:2])
    size = size_of(ins)

    def run(mask):
        active = everyone(m, mask)
        if len(ins.operands) > 2:
            active = active & m.predicate(ins.operands[2])()
        into, at = to() & 0xFFFFFF, source() - m.launch.arena
        sectors_by_warp(m, at, active, size, False)
        for i in range(size // 4):
            m.shared[into[active] // 4 + i] = m.launch.memory[at[active] // 4 + i]

    return run


@operation("ATOM", "ATOMG", "RED", "REDG")
def atomic(m: Machine, ins: Instruction):
    """The driver's barrier: block 0 arrives last. Other atomics add nothing that is looked at."""
    if ins.name.startswith("RED"):
        read, size = address_reader(m, ins.operands[0]), size_of(ins)

        def reduce(mask):
            sectors_by_warp(m, read() - m.launch.arena, everyone(m, mask), size, False)

        return reduce
    operands = [s for s in ins.operands if s != "PT"]
    write, read, added = (
        m.writer(operands[0]),
        address_reader(m, operands[1]),
        m.reader(operands[2]),
    )

    def run(mask):
        active = everyone(m, mask)
        for lane in np.flatnonzero(active):
            word = (read()[lane] - m.launch.arena) // 4
            old = m.launch.memory[word]
            before = int(old) + m.launch.grid - 1
            m.launch.memory[word] = (before + int(added()[lane])) & 0xFFFFFFFF
            m.grid_barriers += 1
            write(np.full(m.lanes, before & 0xFFFFFFFF, np.uint32), active)

    return run


@operation("CCTL")
def forget_l1(m: Machine, ins: Instruction):
    return lambda mask: m.l1.clear()


SMALL = {"U8": np.uint8, "S8": np.int8, "U16": np.uint16, "S16": np.int16}


def small_constant(m: Machine, ins: Instruction, kind):
    write = m.writer(ins.operands[0])
    match = re.match(r"c\[(0x\w+)\]\[([^]]*)\]", ins.operands[1])
    assert match
    bank = m.launch.constants[int(match[1], 16)].view(kind)
    registers, number = m.address_parts(match[2])

    def run(mask):
        at = m.sum_of(registers, number) // bank.itemsize
        write(bank[at % len(bank)].astype(np.int32).view(np.uint32), mask)

    return run


@operation("LDC", "ULDC")
def constant(m: Machine, ins: Instruction):
    write = m.writer(ins.operands[0])
    if "64" in ins.words:
        read, put = m.reader(ins.operands[1], "u64"), m.pair_writer(ins.operands[0])
        return lambda mask: put(np.broadcast_to(read(), (m.lanes,)).copy(), mask)
    for word, kind in SMALL.items():
        if word in ins.words:
            return small_constant(m, ins, kind)
    read = m.reader(ins.operands[1])
    return lambda mask: write(read(), mask)
