"""Runs commands at the same time: side_by_side.py WORDS --- WORDS --- ..., each words of Python.

Triton compiles a kernel on one core, so that programs which need different kernels share a machine.
What they say is printed when all have ended; exit status 1 if one failed.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import groupby


def main(words: list[str]) -> int:
    groups = groupby(words, lambda word: word == "---")
    commands = [[sys.executable, *group] for separates, group in groups if not separates]
    running = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    failed = False
    for command, process in zip(commands, running, strict=True):
        said, _ = process.communicate()
        failed = failed or process.returncode != 0
        print(f"{' '.join(command[1:])}: exit status {process.returncode}\n{said}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
