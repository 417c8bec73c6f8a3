"""One block of a compiled kernel, run on the host from its SASS: which warp executes what, when it
meets a barrier, and what its memory requests cost. All threads of the block advance together where
they are at the same instruction, so one numpy operation serves 256 of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from .listing import Instruction

SHARED_WINDOW = 0x7F00  # upper half of a generic address of shared memory
LOCAL_WORDS = 1024
WORKSPACE_BYTES = 256  # of the driver's grid barrier, behind the arena
ZERO = 255


SHARED, GLOBAL, LOCAL = "shared", "global", "local"


@dataclass
class Launch:
    """What a launch brings: constant bank 0 and 2, global memory and the sizes."""

    constants: dict[int, np.ndarray]
    memory: np.ndarray  # words
    arena: int
    threads: int
    grid: int
    shared_words: int = 58 * 1024


@dataclass
class Step:
    """One instruction executed by some warps; of requests to memory, what each warp's costs."""

    index: int
    warps: np.ndarray  # bool [warps]
    space: str = ""  # SHARED, GLOBAL or LOCAL
    cost: np.ndarray | None = None  # by warp: wavefronts, or sectors from L2; negative: no request


@dataclass
class Group:
    pc: int
    mask: np.ndarray


@dataclass
class Machine:
    code: list[Instruction]
    launch: Launch
    trace: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = self.launch.threads
        self.lanes = n
        self.r = np.zeros((256, n), np.uint32)
        self.u = np.zeros((64, n), np.uint32)
        self.p = np.zeros((8, n), bool)
        self.up = np.zeros((8, n), bool)
        self.p[7] = self.up[7] = True
        self.shared = np.zeros(self.launch.shared_words, np.uint32)
        self.local = np.zeros((LOCAL_WORDS, n), np.uint32)
        self.at = {ins.address: i for i, ins in enumerate(self.code)}
        self.none = np.zeros(n, bool)
        self.space, self.cost = "", None
        self.l1: set[int] = set()  # sectors
        self.grid_barriers = 0

    # ---- operands --------------------------------------------------------------------------------
    def constant(self, text: str, kind: str):
        """c[bank][R4+0x10] -> a function of no arguments."""
        match = re.match(r"c\[(0x\w+)\]\[([^]]*)\]", text)
        assert match, text
        bank = self.launch.constants[int(match[1], 16)]
        index, offset = self.address_parts(match[2])
        wide = kind in ("u64", "f64")
        if not index:
            at = offset // 4
            low = np.uint32(bank[at])
            if not wide:
                return lambda: low
            value = np.uint64(bank[at]) | np.uint64(bank[at + 1]) << np.uint64(32)
            return lambda: value

        def read():
            at = self.sum_of(index, offset).astype(np.int64) // 4
            at = np.clip(at, 0, len(bank) - 2)
            if not wide:
                return bank[at]
            return bank[at].astype(np.uint64) | bank[at + 1].astype(np.uint64) << np.uint64(32)

        return read

    def address_parts(self, text: str) -> tuple[list[str], int]:
        """R4.64+UR4+-0x10 -> the registers and the number."""
        registers, number = [], 0
        for part in text.replace("+-", "+~").split("+"):
            if re.match(r"~?0x", part):
                number += -int(part[1:], 16) if part[0] == "~" else int(part, 16)
            elif part not in ("RZ", "URZ", ""):
                registers.append(part)
        return registers, number

    def sum_of(self, registers: list[str], number: int) -> np.ndarray:
        total = np.full(self.lanes, number, np.int64)
        for name in registers:
            bare = name.removesuffix(".64").removesuffix(".U32")
            if name.endswith(".64"):
                total = total + self.pair(bare).astype(np.int64)
            elif bare[0] == "U":  # beside a 64-bit register it is 64 bits wide as well
                wide = any(other.endswith(".64") for other in registers)
                value = self.pair(bare) if wide else self.u[int(bare[2:])]
                total = total + value.astype(np.int64)
            else:
                total = total + self.r[int(bare[1:])].view(np.int32)
        return total

    def pair(self, name: str) -> np.ndarray:
        if name in ("RZ", "URZ"):
            return np.zeros(self.lanes, np.uint64)
        bank = self.u if name[0] == "U" else self.r
        i = int(name.lstrip("UR"))
        high = bank[i + 1] if i + 1 < len(bank) else bank[i]
        return bank[i].astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)

    def reader(self, text: str, kind: str = "u32"):
        """What an operand is read by: u32, i32, f32, u64 or f64."""
        sign = ""
        while text[0] in "-~":
            sign, text = text[0], text[1:]
        absolute = text.startswith("|")
        text = text.strip("|")
        read = self.plain_reader(text, kind)
        if absolute:
            inner = read
            read = lambda: np.abs(inner())  # noqa: E731
        if not sign:
            return read
        if sign == "~":
            return lambda: ~read()
        if kind[0] == "f":
            return lambda: -read()
        return lambda: (~read()) + np.array(1, read().dtype)

    def plain_reader(self, text: str, kind: str):
        kinds = {"u32": np.uint32, "i32": np.int32, "f32": np.float32}
        wide = {"u64": np.uint64, "f64": np.float64}
        dtype = kinds.get(kind) or wide[kind]
        half = None
        if match := re.match(r"(U?R\d+|U?RZ)\.(\w+)$", text):
            text, half = match[1], match[2]
        if text.startswith("c["):
            read = self.constant(text, kind)
            return lambda: np.asarray(read()).view(dtype)
        if text in ("RZ", "URZ", "SRZ"):
            zero = np.zeros(self.lanes, dtype)
            return lambda: zero
        if re.match(r"U?R\d+$", text):
            if kind in wide:
                return lambda: self.pair(text).view(dtype)
            bank = self.u if text[0] == "U" else self.r
            row = bank[int(text.lstrip("UR"))].view(dtype)
            assert half in (None, "64", "U32"), (text, half)
            return lambda: row
        value = self.immediate(text, kind)
        return lambda: value

    @staticmethod
    def immediate(text: str, kind: str):
        named = {"+INF": np.inf, "INF": np.inf, "+QNAN": np.nan, "QNAN": np.nan}
        dtype = {"u32": "u4", "i32": "i4", "f32": "f4", "u64": "u8", "f64": "f8"}[kind]
        if text in named:
            return np.array(named[text], "f4" if kind != "f64" else "f8").view(dtype)
        if text.startswith("0x"):
            bits = int(text, 16)
            if kind == "f64":
                return np.array(bits << 32, "u8").view("f8")
            return (
                np.array(bits & 0xFFFFFFFF, "u4").view(dtype) if kind != "u64" else np.uint64(bits)
            )
        if kind[0] == "f":
            return np.array(float(text), dtype)
        if "." in text or "e" in text:  # a float, moved about as bits
            return np.array(float(text), "f4").view("u4").view(dtype)
        return (
            np.array(int(text) & 0xFFFFFFFF, "u4").view(dtype)
            if kind != "u64"
            else np.uint64(int(text) & 0xFFFFFFFFFFFFFFFF)
        )

    def predicate(self, text: str):
        negated, name = text.startswith("!"), text.lstrip("!")
        bank = self.up if name[0] == "U" else self.p
        row = bank[7 if name.endswith("PT") else int(name.lstrip("UP"))]
        if negated:
            return lambda: ~row
        return lambda: row

    # ---- results ---------------------------------------------------------------------------------
    def writer(self, text: str):
        """A function (value, mask or None) for a register."""
        if text in ("RZ", "URZ"):
            return lambda value, mask: None
        bank = self.u if text[0] == "U" else self.r
        row = bank[int(text.lstrip("UR"))]

        def write(value, mask):
            value = np.asarray(value)
            if value.dtype != np.uint32:
                value = value.view(np.uint32) if value.itemsize == 4 else value.astype(np.uint32)
            if mask is None:
                row[:] = value
            else:
                np.copyto(row, value, where=mask)

        return write

    def pair_writer(self, text: str):
        if text in ("RZ", "URZ"):
            return lambda value, mask: None
        prefix = "UR" if text[0] == "U" else "R"
        i = int(text.lstrip("UR"))
        low, high = self.writer(text), self.writer(f"{prefix}{i + 1}")

        def write(value, mask):
            bits = np.asarray(value).view(np.uint64)
            low((bits & np.uint64(0xFFFFFFFF)).astype(np.uint32), mask)
            high((bits >> np.uint64(32)).astype(np.uint32), mask)

        return write

    def predicate_writer(self, text: str):
        if text.endswith("PT"):
            return lambda value, mask: None
        bank = self.up if text[0] == "U" else self.p
        row = bank[int(text.lstrip("UP"))]

        def write(value, mask):
            if mask is None:
                row[:] = value
            else:
                np.copyto(row, value, where=mask)

        return write
