"""What the instructions of arithmetic do, as functions of a Machine and an instruction that return
one of the active lanes. Rounding modes, denormals and fused rounding are not kept: values decide
nothing but a few branches.
"""

from __future__ import annotations

import re

import numpy as np

from .listing import Instruction
from .machine import Machine

OPERATIONS: dict = {}
U64 = np.uint64
LOW = np.uint64(0xFFFFFFFF)


def operation(*names: str):
    def register(build):
        for name in names:
            OPERATIONS[name] = build
        return build

    return register


def is_predicate(text: str) -> bool:
    return bool(re.match(r"!?U?P(\d|T)$", text))


def leading(ins: Instruction) -> tuple[list[str], list[str]]:
    """Predicates that are written (directly after the register), and what follows them."""
    rest = ins.operands[1:]
    count = 0
    while count < len(rest) and is_predicate(rest[count]):
        count += 1
    return rest[:count], rest[count:]


def wide(value) -> np.ndarray:
    return np.asarray(value).astype(np.uint64)


@operation("MOV", "UMOV")
def move(m: Machine, ins: Instruction):
    read, write = m.reader(ins.operands[1]), m.writer(ins.operands[0])
    return lambda mask: write(read(), mask)


@operation("CS2R")
def clear(m: Machine, ins: Instruction):
    if "32" in ins.words:
        write = m.writer(ins.operands[0])
        return lambda mask: write(np.uint32(0), mask)
    write = m.pair_writer(ins.operands[0])
    return lambda mask: write(np.zeros(m.lanes, np.uint64), mask)


@operation("IADD3", "UIADD3", "VIADD")
def add3(m: Machine, ins: Instruction):
    carries, rest = leading(ins)
    sources = [r for r in rest if not is_predicate(r)]
    borrowed = [r for r in rest if is_predicate(r)]
    flips = [s.startswith("-") and "x" not in s for s in sources]  # -0x1 is one word, -R5 two's
    reads = [m.reader(s.lstrip("-") if f else s) for s, f in zip(sources, flips, strict=True)]
    carry_in = [m.predicate(b) for b in borrowed]
    write = m.writer(ins.operands[0])
    carry_out = [m.predicate_writer(c) for c in carries]
    if not carries and not carry_in:
        plain = [m.reader(s) for s in sources]

        def simple(mask):
            total = plain[0]() + plain[1]()
            write(total + plain[2]() if len(plain) > 2 else total, mask)

        return simple

    def run(mask):
        total = np.zeros(m.lanes, np.uint64)
        for read, flip in zip(reads, flips, strict=True):
            value = read()
            total = total + (wide(~value) + U64(1) if flip else wide(value))
        for carry in carry_in:
            total = total + wide(carry())
        over = total >> U64(32)
        write((total & LOW).astype(np.uint32), mask)
        for i, put in enumerate(carry_out):
            put(over > U64(i), mask)

    return run


@operation("IMAD", "UIMAD")
def multiply_add(m: Machine, ins: Instruction):
    carries, rest = leading(ins)
    sources = [r for r in rest if not is_predicate(r)]
    carry_in = [m.predicate(r) for r in rest if is_predicate(r)] if "X" in ins.words else []
    if "WIDE" in ins.words or "HI" in ins.words:
        return multiply_wide(m, ins, carries, sources)
    a, b, c = (m.reader(s) for s in sources)
    write = m.writer(ins.operands[0])
    if "MOV" in ins.words:
        return lambda mask: write(c(), mask)

    def run(mask):
        total = a() * b() + c()
        for carry in carry_in:
            total = total + carry().astype(np.uint32)
        write(total, mask)

    return run


def multiply_wide(m: Machine, ins: Instruction, carries: list[str], sources: list[str]):
    kind = "u32" if "U32" in ins.words else "i32"
    a, b = (m.reader(s, kind) for s in sources[:2])
    c = m.reader(sources[2], "u64")
    high = "HI" in ins.words
    write = (m.writer if high else m.pair_writer)(ins.operands[0])
    carry_out = [m.predicate_writer(name) for name in carries]
    between = np.uint64 if kind == "u32" else np.int64

    def run(mask):
        product = (np.asarray(a()).astype(between) * np.asarray(b()).astype(between)).view(U64)
        addend = c()
        total = np.broadcast_to(product + addend, (m.lanes,))
        for put in carry_out:
            put(total < addend, mask)
        write((total >> U64(32)).astype(np.uint32) if high else np.ascontiguousarray(total), mask)

    return run


@operation("LEA", "ULEA")
def shifted_add(m: Machine, ins: Instruction):
    carries, rest = leading(ins)
    sources = [r for r in rest if not is_predicate(r)]
    carry_in = [m.predicate(r) for r in rest if is_predicate(r)]
    write = m.writer(ins.operands[0])
    carry_out = [m.predicate_writer(name) for name in carries]
    high, signed = "HI" in ins.words, "SX32" in ins.words
    shift = U64(int(sources[-1], 16))
    a, b = m.reader(sources[0]), m.reader(sources[1])
    above = m.reader(sources[2]) if high and not signed else None

    def run(mask):
        value = wide(a())
        if signed:
            value = np.asarray(a()).view(np.int32).astype(np.int64).view(U64)
        elif above is not None:
            value = value | wide(above()) << U64(32)
        moved = value >> (U64(32) - shift) if high else value << shift
        if signed:
            moved = (value.view(np.int64) >> np.int64(32 - int(shift))).view(U64)
        total = (moved & LOW) + wide(b())
        for carry in carry_in:
            total = total + wide(carry())
        total = np.broadcast_to(total, (m.lanes,))
        write((total & LOW).astype(np.uint32), mask)
        for put in carry_out:
            put(total >> U64(32) > 0, mask)

    return run


@operation("SHF", "USHF")
def funnel(m: Machine, ins: Instruction):
    low, count, high = (m.reader(s) for s in ins.operands[1:4])
    write = m.writer(ins.operands[0])
    signed, upper = "S32" in ins.words or "S64" in ins.words, "HI" in ins.words
    alone = upper and ("U32" in ins.words or "S32" in ins.words)  # the upper word by itself

    def right(value, n):
        if signed:
            return (value.view(np.int64) >> n.astype(np.int64)).view(U64)
        return value >> n

    def run(mask):
        n = np.minimum(wide(count()), U64(63))
        both = wide(low()) | wide(high()) << U64(32)
        if "L" in ins.words:
            result = (both << n) >> U64(32) if upper else wide(low()) << n
        elif alone:
            value = np.asarray(high())
            extended = value.view(np.int32).astype(np.int64).view(U64) if signed else wide(value)
            result = right(extended, n)
        else:
            result = right(both, n) >> U64(32) if upper else right(both, n)
        write((result & LOW).astype(np.uint32), mask)

    return run


@operation("SEL", "USEL", "FSEL")
def select(m: Machine, ins: Instruction):
    kind = "f32" if ins.name == "FSEL" else "u32"
    a, b = (m.reader(s, kind) for s in ins.operands[1:3])
    which, write = m.predicate(ins.operands[3]), m.writer(ins.operands[0])
    return lambda mask: write(np.where(which(), a(), b()), mask)


@operation("IMNMX", "VIMNMX", "VIMNMX3", "VIADDMNMX", "FMNMX")
def minmax(m: Machine, ins: Instruction):
    kind = "f32" if ins.name == "FMNMX" else "u32" if "U32" in ins.words else "i32"
    sources = [s for s in ins.operands[1:] if not is_predicate(s)]
    reads = [m.reader(s, kind) for s in sources]
    smaller = m.predicate([s for s in ins.operands[1:] if is_predicate(s)][-1])
    write = m.writer(ins.operands[0])
    adds = ins.name == "VIADDMNMX"

    def run(mask):
        values = [np.asarray(read()) for read in reads]
        if adds:
            values = [values[0] + values[1], values[2]]
        low, high = values[0], values[0]
        for value in values[1:]:
            low, high = np.fmin(low, value), np.fmax(high, value)
        write(np.where(smaller(), low, high), mask)

    return run


@operation("IABS")
def absolute(m: Machine, ins: Instruction):
    read, write = m.reader(ins.operands[1], "i32"), m.writer(ins.operands[0])
    return lambda mask: write(np.abs(read()), mask)


@operation("PRMT", "UPRMT")
def permute(m: Machine, ins: Instruction):
    a, sel, b = (m.reader(s) for s in ins.operands[1:4])
    write = m.writer(ins.operands[0])

    def run(mask):
        both = wide(a()) | wide(b()) << U64(32)
        chosen = np.asarray(sel())
        result = np.uint32(0)
        for i in range(4):
            nibble = chosen >> np.uint32(4 * i) & np.uint32(15)
            byte = (both >> wide(nibble & np.uint32(7)) * U64(8)).astype(np.uint32) & np.uint32(255)
            sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
            result = result | np.where(nibble & np.uint32(8), sign, byte) << np.uint32(8 * i)
        write(result, mask)

    return run


@operation("POPC", "UPOPC")
def count_ones(m: Machine, ins: Instruction):
    read, write = m.reader(ins.operands[1]), m.writer(ins.operands[0])
    return lambda mask: write(np.bitwise_count(np.asarray(read())).astype(np.uint32), mask)


@operation("FLO", "UFLO")
def highest_one(m: Machine, ins: Instruction):
    read, write = m.reader(ins.operands[1]), m.writer(ins.operands[0])

    def run(mask):
        x = np.asarray(read()).astype(np.float64)
        write(np.where(x > 0, np.log2(np.maximum(x, 1)), 0xFFFFFFFF).astype(np.uint32), mask)

    return run


@operation("P2R")
def predicates_out(m: Machine, ins: Instruction):
    write, base = m.writer(ins.operands[0]), m.reader(ins.operands[2])
    bits = int(ins.operands[3], 16)

    def run(mask):
        value = base() & np.uint32(~bits & 0xFFFFFFFF)
        for i in range(7):
            if bits >> i & 1:
                value = value | m.p[i].astype(np.uint32) << np.uint32(i)
        write(value, mask)

    return run


@operation("R2P")
def predicates_in(m: Machine, ins: Instruction):
    read, bits = m.reader(ins.operands[1]), int(ins.operands[2], 16)
    puts = [m.predicate_writer(f"P{i}") for i in range(7)]

    def run(mask):
        value = np.asarray(read())
        for i in range(7):
            if bits >> i & 1:
                puts[i](value >> np.uint32(i) & np.uint32(1) != 0, mask)

    return run
