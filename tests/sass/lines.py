"""The lines of source of a kernel compiled with -lineinfo, by address."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from .tools import find_tool

PLACE = re.compile(r'\s*//## File "([^"]+)", line (\d+)')
AT = re.compile(r"\s+/\*([0-9a-f]{4,})\*/")
HELPERS = ("copy.cuh", "dev.h", "reduce.cuh", "grid_sync.cuh", "mma.cuh")


def choose(frames: list[tuple[str, int]]) -> str:
    """The innermost frame in the kernels' own code that is no helper's."""
    own = [f for f in frames if f[0].endswith((".cuh", ".h")) and "/csrc/" in f[0]]
    for path, line in own or frames:
        if Path(path).name not in HELPERS:
            return f"{Path(path).name}:{line}"
    return f"{Path(frames[0][0]).name}:{frames[0][1]}"


def parse_lines(text: str, kernel: str) -> dict[int, str]:
    """Address -> file and line, of the kernel's section of ``nvdisasm -gi``."""
    found: dict[int, str] = {}
    frames: list[tuple[str, int]] = []
    inside, fresh = False, True
    for line in text.splitlines():
        if line.startswith(".text."):
            inside = line.startswith(f".text.{kernel}:")
        elif match := PLACE.match(line):
            frames = [] if fresh else frames
            fresh = False
            frames.append((match[1], int(match[2])))
        elif inside and frames and (match := AT.match(line)):
            found[int(match[1], 16)] = choose(frames)
            fresh = True
    return found


def source_lines(cubin: Path, kernel: str) -> dict[int, str]:
    """Empty where the kernel was compiled without lines."""
    command = [find_tool("nvdisasm"), "-gi", "-c", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True)
    return parse_lines(done.stdout, kernel) if done.returncode == 0 else {}
