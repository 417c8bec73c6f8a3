"""Compares the emulator with a GPU, bit by bit: tensor-core fragments, ldmatrix, conversions,
shuffles, cp.async and grid barriers.

    python -m tests.emulation.hardware_check [--arch 90]

Exit status 0: equal; 1: a difference, printed; 2: no nvcc or no GPU, said on stderr.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from . import build as builder

SOURCE = builder.HERE / "hardware_check.cu"


def emulated() -> str:
    return subprocess.run(
        [builder.build("hardware")], capture_output=True, text=True, check=True
    ).stdout


def compile_for_device(target: Path, arch: str) -> None:
    nvcc = shlex.split(os.environ.get("NVCC", "nvcc"))
    includes = [f"-I{builder.ROOT / 'csrc'}"]
    command = [*nvcc, "-std=c++20", "-O3", f"-arch={arch}", *includes, str(SOURCE)]
    subprocess.run([*command, "-o", str(target)], capture_output=True, text=True, check=True)


def differences(ours: str, theirs: str) -> list[str]:
    """One sentence per thread whose words differ."""
    wrong = []
    lines = ours.strip().splitlines(), theirs.strip().splitlines()
    if len(lines[0]) != len(lines[1]):
        wrong.append(f"{len(lines[0])} threads in the emulator, {len(lines[1])} on the device")
    for a, b in zip(*lines, strict=False):
        (name, ours_words), (_, theirs_words) = a.split(":"), b.split(":")
        pairs = zip(ours_words.split(), theirs_words.split(), strict=True)
        if bad := [f"word {i}: {x}, device {y}" for i, (x, y) in enumerate(pairs) if x != y]:
            wrong.append(f"{name}: {'; '.join(bad[:4])} ({len(bad)} in all)")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--arch", default="native", help="of nvcc; default: the GPU of this machine"
    )
    arch = parser.parse_args().arch
    target = builder.BUILD / "hardware" / "hardware_check_device"
    ours = emulated()
    try:
        compile_for_device(target, f"sm_{arch}" if arch.isdigit() else arch)
        theirs = subprocess.run([target], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        print(f"nothing to compare with: {said}".strip(), file=sys.stderr)
        return 2
    wrong = differences(ours, theirs)
    print("\n".join(wrong) or f"equal: {len(ours.strip().splitlines())} threads")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
