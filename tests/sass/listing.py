"""SASS as cuobjdump prints it, parsed: instructions with their guards, operands and scheduling.

The upper bits of an instruction's 128 are the compiler's scheduling (the same since sm_70): how
many clocks to stall after it, which of six barriers it raises when its result is written or its
operands are read, and which barriers it waits for.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

NO_BARRIER = 7
LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?)(U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;")
ENCODING = re.compile(r"/\* 0x([0-9a-f]{16}) \*/\s*$")


@dataclass
class Instruction:
    """One instruction; ``words`` are the parts of its name, ``operands`` as written."""

    address: int
    guard: str  # "" or the predicate
    negated: bool
    words: tuple[str, ...]
    operands: list[str]
    stall: int = 1
    write_barrier: int = NO_BARRIER
    read_barrier: int = NO_BARRIER
    waits: int = 0  # bits

    @property
    def name(self) -> str:
        return self.words[0]

    def schedule(self, high: int) -> None:
        """Takes the scheduling from the upper 64 bits."""
        self.stall = high >> 41 & 15
        self.write_barrier = high >> 46 & 7
        self.read_barrier = high >> 49 & 7
        self.waits = high >> 52 & 63


def split_operands(text: str) -> list[str]:
    """Operands are separated by commas; ``desc[UR4][R2.64]`` is one."""
    text = re.sub(r"\(\*.*?\*\)", "", text)
    return [part.strip().replace(".reuse", "") for part in text.split(",") if part.strip()]


def parse_line(line: str) -> Instruction | None:
    match = LINE.match(line)
    if not match:
        return None
    at, sign, guard, name, rest = match.groups()
    return Instruction(
        int(at, 16), guard or "", bool(sign), tuple(name.split(".")), split_operands(rest)
    )


def parse_listing(text: str) -> dict[str, list[Instruction]]:
    """Mangled kernel -> its instructions, from ``cuobjdump -sass`` of one architecture."""
    kernels: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    for line in text.splitlines():
        if match := re.match(r"\s*Function : (\S+)", line):
            code = kernels.setdefault(match[1], [])
        elif found := parse_line(line):
            code.append(found)
        elif code and (encoded := ENCODING.search(line)):
            code[-1].schedule(int(encoded[1], 16))
    return kernels


def jump_tables(cubin: Path) -> dict[str, bytes]:
    """Mangled kernel -> its constant bank 2, which holds the targets of indirect branches."""
    data = cubin.read_bytes()
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
    text = headers[names]

    def title(header: tuple[int, ...]) -> str:
        at = text[4] + header[0]
        return data[at : data.index(b"\0", at)].decode()

    tables: dict[str, bytearray] = {}
    for header in headers:
        name = title(header)
        if name.startswith(".nv.constant2."):
            tables[name[14:]] = bytearray(data[header[4] : header[4] + header[5]])
    for header in headers:
        name = title(header)
        if name.startswith(".rela.nv.constant2."):
            for at in range(header[4], header[4] + header[5], 24):
                offset, _, addend = struct.unpack_from("<QQq", data, at)
                struct.pack_into("<I", tables[name[19:]], offset, addend & 0xFFFFFFFF)
    return {name: bytes(table) for name, table in tables.items()}
