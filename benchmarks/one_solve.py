"""One solve of a case by the CUDA kernels, for a profiler: one_solve.py C2 fp16x3. On few rows it
makes Triton compile, and keep, what a net wider than 128 needs: one_solve.py C4 tf32 --rows 300.
"""

from __future__ import annotations

import argparse

from trpo_fast.backends.registry import registry
from trpo_fast.bench import CASES, make_workload
from trpo_fast.bench.suites import SUITES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("precision", choices=registry()["cuda"].precisions)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int)
    given = parser.parse_args()
    work = make_workload(CASES[given.case], given.device, given.rows)
    x = SUITES["cg"].own(work, "cuda", given.precision, 10).result()
    print(f"{given.case} {given.precision}: |x| = {float(x.norm()):.6g}")


if __name__ == "__main__":
    main()
