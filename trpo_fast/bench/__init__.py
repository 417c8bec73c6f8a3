"""Benchmarks: one case table, the opponents, interleaved timing with the error beside every time.

``trpo-fast bench cg`` prints and writes what ``benchmarks/README.md`` describes.
"""

from __future__ import annotations

from .cases import CASES, Case, Workload, make_workload
from .harness import Contender, measure
from .report import Row, environment, table

__all__ = [
    "CASES",
    "Case",
    "Contender",
    "Row",
    "Workload",
    "environment",
    "make_workload",
    "measure",
    "table",
]
