"""NVIDIA's disassemblers, found as check_cuda.py finds them."""

from __future__ import annotations

import sys
from pathlib import Path

SUPPORT = str(Path(__file__).resolve().parents[1] / "support")
if SUPPORT not in sys.path:  # as python -m tests.sass; pytest has it
    sys.path.append(SUPPORT)

from check_cuda import find_tool  # noqa: E402, F401
