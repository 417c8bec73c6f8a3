"""Bitwise functions, comparisons and predicates, as in arithmetic.py."""

from __future__ import annotations

import numpy as np

from .arithmetic import is_predicate, operation
from .listing import Instruction
from .machine import Machine


def table_result(table: int, a, b, c):
    """Bitwise function of three by its table."""
    if table == 0xC0:
        return a & b
    if table == 0xFC:
        return a | b
    if table == 0x3C:
        return a ^ b
    result = np.zeros_like(a | b | c)
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result


@operation("LOP3", "ULOP3")
def logic(m: Machine, ins: Instruction):
    operands = list(ins.operands)
    put = m.predicate_writer(operands.pop(0)) if is_predicate(operands[0]) else None
    write = m.writer(operands[0])
    a, b, c = (m.reader(s) for s in operands[1:4])
    table = int(operands[4], 16)

    def run(mask):
        result = table_result(table, a(), b(), c())
        write(result, mask)
        if put:
            put(np.asarray(result) != 0, mask)

    return run


@operation("PLOP3", "UPLOP3")
def predicate_logic(m: Machine, ins: Instruction):
    first, second = (m.predicate_writer(s) for s in ins.operands[:2])
    a, b, c = (m.predicate(s) for s in ins.operands[2:5])
    tables = [int(s, 16) for s in ins.operands[5:7]]

    def run(mask):
        x, y, z = a().copy(), b().copy(), c().copy()
        first(table_result(tables[0], x, y, z), mask)
        second(table_result(tables[1], x, y, z), mask)

    return run


COMPARE = {
    "GE": np.greater_equal,
    "GT": np.greater,
    "LE": np.less_equal,
    "LT": np.less,
    "EQ": np.equal,
    "NE": np.not_equal,
}


def compare(word: str, a, b):
    """Ordered comparisons, and those that are true of a NaN (GEU and so on)."""
    if word == "NAN":
        return np.isnan(a) | np.isnan(b)
    if word == "NUM":
        return ~(np.isnan(a) | np.isnan(b))
    if word in COMPARE:
        return COMPARE[word](a, b)
    return COMPARE[word[:-1]](a, b) | np.isnan(a) | np.isnan(b)


def combined(ins: Instruction, value, other):
    if "OR" in ins.words:
        return value | other
    return value ^ other if "XOR" in ins.words else value & other


@operation("ISETP", "UISETP", "FSETP", "DSETP")
def set_predicate(m: Machine, ins: Instruction):
    kind = {"F": "f32", "D": "f64"}.get(ins.name[0], "u32" if "U32" in ins.words else "i32")
    puts = [m.predicate_writer(s) for s in ins.operands[:2]]
    a, b = (m.reader(s, kind) for s in ins.operands[2:4])
    others = [m.predicate(s) for s in ins.operands[4:]]
    word, extended = ins.words[1], "EX" in ins.words

    def run(mask):
        x, y = a(), b()
        result = compare(word, x, y)
        if extended:  # the lower words have been compared
            lower = others[1]()
            same = np.equal(x, y)
            strict = {"GE": "GT", "LE": "LT"}.get(word, word)
            result = COMPARE[strict](x, y) | same & lower if word != "EQ" else same & lower
        other = others[0]()
        first, second = combined(ins, result, other), combined(ins, ~np.asarray(result), other)
        puts[0](first, mask)
        puts[1](second, mask)

    return run
