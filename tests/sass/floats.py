"""Floating point and conversions, as in arithmetic.py."""

from __future__ import annotations

import numpy as np

from .arithmetic import U64, operation
from .listing import Instruction
from .logic import compare
from .machine import Machine


def float_operation(m: Machine, ins: Instruction, count: int, compute, kind: str):
    reads = [m.reader(s, kind) for s in ins.operands[1 : 1 + count]]
    write = (m.pair_writer if kind == "f64" else m.writer)(ins.operands[0])
    saturate = "SAT" in ins.words

    def run(mask):
        value = compute(*(read() for read in reads))
        if saturate:
            value = np.clip(value, 0, 1)
        write(np.broadcast_to(value, (m.lanes,)).copy(), mask)

    return run


@operation("FFMA", "DFMA")
def multiply_add(m: Machine, ins: Instruction):
    kind = "f64" if ins.name[0] == "D" else "f32"
    return float_operation(m, ins, 3, lambda a, b, c: a * b + c, kind)


@operation("FADD", "DADD")
def add(m: Machine, ins: Instruction):
    kind = "f64" if ins.name[0] == "D" else "f32"
    return float_operation(m, ins, 2, lambda a, b: a + b, kind)


@operation("FMUL", "DMUL")
def multiply(m: Machine, ins: Instruction):
    kind = "f64" if ins.name[0] == "D" else "f32"
    return float_operation(m, ins, 2, lambda a, b: a * b, kind)


@operation("FSET")
def set_one(m: Machine, ins: Instruction):
    a, b = (m.reader(s, "f32") for s in ins.operands[1:3])
    write = m.writer(ins.operands[0])
    word = next(w for w in ins.words[1:] if w not in ("BF", "FTZ"))
    return lambda mask: write(compare(word, a(), b()).astype(np.float32), mask)


SPECIAL = {
    "RCP": lambda x: np.float32(1) / x,
    "RSQ": lambda x: np.float32(1) / np.sqrt(x),
    "SQRT": np.sqrt,
    "EX2": np.exp2,
    "LG2": np.log2,
    "TANH": np.tanh,
}


@operation("MUFU")
def special(m: Machine, ins: Instruction):
    word = ins.words[1]
    if word in ("RCP64H", "RSQ64H"):  # of a double of which the upper word is given, its upper word
        read, write = m.reader(ins.operands[1]), m.writer(ins.operands[0])

        def run(mask):
            bits = (np.asarray(read()).astype(U64) << U64(32)) * np.ones(m.lanes, U64)
            value = bits.view(np.float64)
            result = 1 / value if word == "RCP64H" else 1 / np.sqrt(value)
            write((result.view(U64) >> U64(32)).astype(np.uint32), mask)

        return run
    return float_operation(m, ins, 1, SPECIAL[word], "f32")


@operation("FRND")
def round_whole(m: Machine, ins: Instruction):
    return float_operation(m, ins, 1, np.trunc if "TRUNC" in ins.words else np.rint, "f32")


@operation("FCHK")
def division_is_plain(m: Machine, ins: Instruction):
    write = m.predicate_writer(ins.operands[0])
    return lambda mask: write(False, mask)


@operation("I2F", "I2FP")
def from_integer(m: Machine, ins: Instruction):
    signed = "U32" not in ins.words and "U64" not in ins.words
    if "U64" in ins.words or "S64" in ins.words:
        read = m.reader(ins.operands[1], "u64")
        cast = np.int64 if "S64" in ins.words else np.uint64
    else:
        read, cast = m.reader(ins.operands[1]), np.int32 if signed else np.uint32
    double = "F64" in ins.words
    write = (m.pair_writer if double else m.writer)(ins.operands[0])
    dtype = np.float64 if double else np.float32

    def run(mask):
        value = np.broadcast_to(np.asarray(read()).view(cast), (m.lanes,))
        write(value.astype(dtype), mask)

    return run


@operation("F2I")
def to_integer(m: Machine, ins: Instruction):
    read = m.reader(ins.operands[1], "f64" if "F64" in ins.words else "f32")
    wide = "U64" in ins.words or "S64" in ins.words
    write = (m.pair_writer if wide else m.writer)(ins.operands[0])
    top = {True: 2.0**64 - 2048, False: 2.0**32 - 1}[wide]
    unsigned = "U32" in ins.words or "U64" in ins.words

    def run(mask):
        value = np.nan_to_num(np.asarray(read()).astype(np.float64))
        value = np.trunc(value) if "TRUNC" in ins.words else np.rint(value)
        if unsigned:
            result = np.clip(value, 0, top).astype(U64)
        else:
            result = np.clip(value, -(2.0**31), 2.0**31 - 1).astype(np.int64).view(U64)
        result = np.broadcast_to(result, (m.lanes,)).copy()
        write(result if wide else (result & U64(0xFFFFFFFF)).astype(np.uint32), mask)

    return run


@operation("F2F")
def convert(m: Machine, ins: Instruction):
    to, source = (w for w in ins.words if w in ("F64", "F32", "F16"))
    read = m.reader(ins.operands[1], "f64" if source == "F64" else "f32")
    write = (m.pair_writer if to == "F64" else m.writer)(ins.operands[0])
    dtype = np.float64 if to == "F64" else np.float32
    return lambda mask: write(np.broadcast_to(read(), (m.lanes,)).astype(dtype), mask)


@operation("HFMA2")
def half_constants(m: Machine, ins: Instruction):
    assert ins.operands[1] in ("-RZ", "RZ"), "only as a way to load a constant"
    high, low = (np.array(float(s), np.float16).view(np.uint16) for s in ins.operands[3:5])
    value, write = np.uint32(int(high) << 16 | int(low)), m.writer(ins.operands[0])
    return lambda mask: write(value, mask)


@operation("HADD2")
def from_half(m: Machine, ins: Instruction):
    assert "F32" in ins.words and ins.operands[1] in ("-RZ", "RZ")
    name, _, half = ins.operands[2].partition(".")
    read, write = m.reader(name), m.writer(ins.operands[0])
    shift = np.uint32(16 if half.startswith("H1") else 0)

    def run(mask):
        bits = (np.asarray(read()) >> shift).astype(np.uint16)
        write(np.broadcast_to(bits.view(np.float16).astype(np.float32), (m.lanes,)).copy(), mask)

    return run


@operation("F2FP")
def to_halves(m: Machine, ins: Instruction):
    high, low = (m.reader(s, "f32") for s in ins.operands[1:3])
    write = m.writer(ins.operands[0])

    def run(mask):
        top, bottom = (np.asarray(r()).astype(np.float16).view(np.uint16) for r in (high, low))
        write(top.astype(np.uint32) << np.uint32(16) | bottom, mask)

    return run


@operation("HMMA")
def tensor_product(m: Machine, ins: Instruction):
    """16 x 8 x 16 of every warp, by the fragments of the PTX manual."""
    first = [int(s.lstrip("R")) if s != "RZ" else None for s in ins.operands[:4]]
    writes = [m.writer(f"R{first[0] + i}") for i in range(4)]

    def halves(register: int) -> np.ndarray:  # [warps, group, pair, 2]
        return m.r[register].view(np.float16).reshape(-1, 8, 4, 2).astype(np.float32)

    def run(mask):
        warps = m.lanes // 32
        a = np.zeros((warps, 16, 16), np.float32)
        b = np.zeros((warps, 16, 8), np.float32)
        for i in range(4):  # a row is a group, columns are twos of a pair
            rows, columns = 8 * (i & 1), 8 * (i >> 1)
            a[:, rows : rows + 8, columns : columns + 8] = halves(first[1] + i).reshape(warps, 8, 8)
        for i in range(2):
            b[:, 8 * i : 8 * i + 8] = halves(first[2] + i).reshape(warps, 8, 8).transpose(0, 2, 1)
        d = np.einsum("wik,wkj->wij", a, b).reshape(warps, 2, 8, 4, 2)
        for i, write in enumerate(writes):
            value = d[:, i >> 1, :, :, i & 1].reshape(-1)
            if first[3] is not None:
                value = value + m.r[first[3] + i].view(np.float32)
            write(np.ascontiguousarray(value, np.float32), mask)

    return run
