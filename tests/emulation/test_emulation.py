"""The emulator: its cases pass under every tool and schedule, and planted bugs are caught."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from emulation import build as builder
from emulation import hardware_check, memory_report

build = cache(builder.build)
needs_tools = pytest.mark.skipif(
    not builder.available(), reason="the emulator needs a C++ compiler and ninja"
)
pytestmark = needs_tools

SCHEDULES = ["--order fifo", "--order lifo", *(f"--order random --seed {s}" for s in (1, 2, 3))]
PREEMPTED = "--order random --seed 4 --preempt 0.3"

# A planted bug (tests/emulation/cases_bugs.cpp) -> the build that must report it and its words.
# "plain" reports hold for every order of execution, the sanitizers' in any one order.
BUGS = {
    "missing_syncthreads": ("thread", "data race"),
    "missing_syncthreads_before_reuse": ("thread", "data race"),
    "missing_syncwarp": ("thread", "data race"),
    "half_warp_syncwarp": ("thread", "data race"),
    "forgotten_grid_sync": ("thread", "data race"),
    "flag_barrier_without_its_end": ("thread", "data race"),
    "blocks_write_the_same_place": ("thread", "data race"),
    "flag_without_fence": ("thread", "data race"),
    "cp_async_into_a_buffer_in_use": ("thread", "data race"),
    "cp_async_without_barrier": ("thread", "data race"),
    "cp_async_without_wait": ("plain", "got -?nan"),
    "cp_async_waits_for_the_wrong_group": ("plain", "got -?nan"),
    "cp_async_never_awaited": ("plain", "cp.async still in flight when its thread exits"),
    "uninitialised_shared": ("plain", "got -?nan"),
    "overrun_between_shared_arrays": ("address", "use-after-poison"),
    "overrun_of_shared_memory": ("address", "use-after-poison"),
    "as_shared_of_global_memory": ("plain", r"as_shared of .* at .*cases_bugs.cpp:\d+"),
    "overrun_of_global_memory": ("address", "heap-buffer-overflow"),
    "carver_beyond_the_launch": ("plain", "the carver needs more shared memory"),
    "misaligned_float4": ("address", "store to misaligned address"),
    "misaligned_load4": ("plain", r"misaligned access at .*cases_bugs.cpp:\d+ \(block 0 thread 0"),
    "misaligned_cp_async": ("plain", r"misaligned access at .*cases_bugs.cpp:\d+"),
    "misaligned_ldmatrix": ("plain", r"misaligned access at .*cases_bugs.cpp:\d+"),
    "wild_pointer": ("plain", r"fault \(signal 11\) in block 0 thread 9"),
    "stack_overflow": ("plain", r"fault \(signal 11\) in block 0 thread 0"),
    "divergent_syncthreads": ("plain", r"divergent __syncthreads: .*:\d+, block 0 thread .*:\d+"),
    "divergent_grid_sync": ("plain", r"divergent grid_sync: .*:\d+, block 1 thread .*:\d+"),
    "early_exit_before_syncthreads": ("plain", r"early exit: 1 thread.*__syncthreads at .*:\d+"),
    "early_exit_before_grid_sync": ("plain", r"early exit: 32 thread.*grid_sync at .*:\d+"),
    "deadlock": ("plain", r"deadlock: block \d+ thread \d+ waits in .*:\d+.*56 more"),
    "livelock": ("plain", r"livelock: .*cases_bugs.cpp:\d+"),
    "ordinary_blocks_wait_for_each_other": ("plain", "livelock: a spinning thread"),
    "divergent_shuffle": ("plain", r"divergent warp collective: .*:\d+ .*:\d+"),
    "mask_without_own_lane": ("plain", "own lane is not in the mask"),
    "shuffle_outside_the_mask": ("plain", "shuffle reads a lane outside its mask"),
    "mask_with_exited_lane": ("plain", "a lane that has exited or does not exist"),
    "mask_beyond_the_block": ("plain", "a lane that has exited or does not exist"),
    "odd_shuffle_width": ("plain", "expected a width that is a power of two"),
    "trap": ("plain", r"__trap at .*cases_bugs.cpp:\d+ \(block 0 thread 5\)"),
    "too_many_threads": ("plain", "expected 1 to 1024 threads .* got 1025 threads"),
    "no_blocks": ("plain", "at least one block, got 32 threads, 0x1x1 blocks"),
    "too_much_shared_memory": (
        "plain",
        "232449 bytes of shared memory where the kernel may have 232448",
    ),
    "cooperative_beyond_residency": ("plain", "expected at most 4 blocks .* got 9"),
}


def run_cases(variant: str, words: str) -> subprocess.CompletedProcess[str]:
    options = {"TSAN_OPTIONS": "atexit_sleep_ms=0 halt_on_error=1", "ASAN_OPTIONS": ""}
    return subprocess.run(
        [build(variant), *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        env=os.environ | options,
    )


@cache
def listed(variant: str, kind: str) -> list[str]:
    """Names of the cases ("case") or planted bugs ("bug") in a build."""
    lines = run_cases(variant, "--list").stdout.splitlines()
    return [line.split()[1] for line in lines if line.startswith(f"{kind} ")]


def check_passes(variant: str, words: str, names: list[str]) -> None:
    done = run_cases(variant, f"{words} {' '.join(names)}")
    assert done.returncode == 0, done.stdout
    assert len(re.findall("^ok ", done.stdout, re.MULTILINE)) == len(names) > 0


@pytest.mark.parametrize("words", [*SCHEDULES, PREEMPTED])
@pytest.mark.parametrize("variant", ["plain", "address", "thread", "ucontext"])
def test_primitives_pass(variant: str, words: str) -> None:
    names = [name for name in listed(variant, "case") if "kernel_" not in name]
    check_passes(variant, words, names)


@pytest.mark.parametrize("variant", ["address", "thread"])
def test_kernels_pass_under_sanitizers(variant: str) -> None:
    """Every case of the CUDA core; each compares the bits of three schedules by itself."""
    names = [name for name in listed(variant, "case") if "kernel_" in name]
    check_passes(variant, "--order random --seed 5", names)


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_caught(name: str) -> None:
    variant, words = BUGS[name]
    for schedule in SCHEDULES[:3] if variant == "plain" else SCHEDULES[1:2]:
        done = run_cases(variant, f"{schedule} {name}")
        assert done.returncode != 0, f"{name} passed with {schedule}:\n{done.stdout}"
        assert re.search(words, done.stdout), done.stdout
        assert "cases_bugs.cpp:" in done.stdout or "signal" in words or "got" in words


def test_every_planted_bug_is_in_the_table() -> None:
    assert set(listed("plain", "bug")) == set(BUGS)


def test_thread_build_does_not_instrument_the_runtime() -> None:
    """A weak symbol of the runtime could be replaced by an instrumented copy."""
    build("thread")
    for source in builder.RUNTIME:
        symbols = subprocess.run(
            ["nm", builder.BUILD / "thread" / f"{source}.o"], capture_output=True, text=True
        ).stdout
        assert not re.search(r" [WV] (?!_ZTI|_ZTS|DW\.ref)", symbols), symbols
        assert "__tsan_read" not in symbols and "__tsan_func_entry" not in symbols


def test_library_counts_and_steers() -> None:
    library = ctypes.CDLL(str(build("library")))
    counters = (ctypes.c_uint64 * 8)()
    library.trpo_emulation_schedule(2, ctypes.c_uint64(7), ctypes.c_float(0.0))
    library.trpo_emulation_counters(counters, 1)
    library.trpo_emulation_counters(counters, 0)
    assert list(counters) == [0] * 8
    library.trpo_emulation_message.restype = ctypes.c_char_p
    assert library.trpo_emulation_message() == b""


@cache
def memory_costs():
    return memory_report.measure([])


def test_memory_report_counts_wavefronts_and_sectors() -> None:
    files = memory_report.by_file(memory_costs())
    ratios = {case: spaces.get("cases_memory.cpp") for case, spaces in files.items()}
    assert ratios["memory_padded_transpose"] == {"shared": 1.0, "global": 1.0}
    assert ratios["memory_conflicting_transpose"] == {"shared": 16.5, "global": 1.0}  # 1 and 32
    assert ratios["memory_wide_rows"] == {"shared": 1.0, "global": 2.4}  # 48 / 20
    assert ratios["memory_wide_rows_conflicting"] == {"shared": 8.0, "global": 2.4}


def test_memory_budget_holds() -> None:
    budget = json.loads(memory_report.BUDGET.read_text())
    measured = memory_report.by_file(memory_costs())
    assert not memory_report.over_budget(measured, budget)
    worse = {"memory_padded_transpose": {"cases_memory.cpp": {"shared": 1.1}}}
    assert memory_report.over_budget(measured | worse, budget)


def test_hardware_check_compares_every_word() -> None:
    ours = hardware_check.emulated()
    assert len(ours.strip().splitlines()) == 64
    assert not hardware_check.differences(ours, ours)
    changed = ours.replace(" ", " f", 40).replace(": f", ": ", 1)
    assert hardware_check.differences(ours, changed)
    first = ours.strip().splitlines()[0].split(":")[1].split()
    assert first[48:51] == ["43f80000", "40000000", "41a00000"]  # 496.0, 2.0, 20.0


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile with")
def test_hardware_check_compiles_for_a_device(tmp_path: Path) -> None:
    hardware_check.compile_for_device(tmp_path / "check", "sm_80")
    assert (tmp_path / "check").exists()
