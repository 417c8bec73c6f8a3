"""The static check of the CUDA kernels: what it reads, and what it refuses."""

from __future__ import annotations

import copy

import check_cuda
import pytest

USAGE = """
Fatbin elf code:
================
arch = sm_90
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN9trpo_fast1kILi64EEEvPf:
  REG:64 STACK:696 SHARED:1280 LOCAL:0 CONSTANT[0]:536 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin ptx code:
================
arch = sm_100
"""
SASS = """
	code for sm_90
	.target	sm_90

		Function : _ZN9trpo_fast1kILi64EEEvPf
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   MOV R1, c[0x0][0x28] ;            /* 0x00000a0000017a02 */
                                                                     /* 0x000fe20000000f00 */
        /*0020*/                   HFMA2.MMA R60, -RZ, RZ, 0, 2 ;    /* 0x00000004ff3c7435 */
        /*0030*/              @!P0 HMMA.1688.F32.TF32 R4, R8, R9, R4 ;
        /*0040*/             @!UP2 LDGSTS.E [R4], [R2.64] ;
        /*0050*/                   STL.64 [R1+0x238], R2 ;
        /*0060*/               @P1 LDL R3, [R1] ;
        /*10070*/                  DFMA R4, R4, R4, R4 ;
"""
VALUES = {"registers": 64, "stack": 696, "shared": 1280}
COUNTS = {"tensor": 1, "async": 1, "float64": 1, "local": 2}
FOUND = {arch: {"k<64>": {**VALUES, **COUNTS}} for arch in sorted(check_cuda.ARCHS)}


def test_reads_resource_usage() -> None:
    kernels = check_cuda.demangle(check_cuda.parse_usage(USAGE))
    assert kernels == {"sm_90": {"k<64>": VALUES}}


def test_counts_instructions() -> None:
    kernels = check_cuda.demangle(check_cuda.parse_sass(SASS))
    assert kernels == {"sm_90": {"k<64>": COUNTS}}


NAMES = {
    "void trpo_fast::k<64>(float*)": "k<64>",
    "trpo_fast::fvp_kernel(trpo_fast::FvpParams)": "fvp_kernel",
    "void trpo_fast::(anonymous namespace)::cg<(trpo_fast::Head)0, 64>(CgArgs)": "cg<(Head)0, 64>",
}


@pytest.mark.parametrize("demangled, name", NAMES.items())
def test_shortens_names(demangled: str, name: str) -> None:
    assert check_cuda.short_name(demangled) == name


CHANGES = {
    "registers": (65, "registers: expected at most 64, got 65"),
    "stack": (700, "stack: expected at most 696, got 700"),
    "local": (3, "local: expected at most 2, got 3"),
    "tensor": (0, "tensor: expected at least 1, got 0"),
}


@pytest.mark.parametrize("name, change", CHANGES.items(), ids=CHANGES)
def test_refuses_what_exceeds_the_budget(name: str, change: tuple[int, str]) -> None:
    value, sentence = change
    found = copy.deepcopy(FOUND)
    found["sm_90"]["k<64>"][name] = value
    assert check_cuda.compare(FOUND, FOUND) == []
    assert check_cuda.compare(found, FOUND) == [f"sm_90 k<64>: {sentence}"]


def test_refuses_unknown_and_vanished_kernels() -> None:
    renamed = {**FOUND, "sm_90": {"j<64>": FOUND["sm_90"]["k<64>"]}}
    assert check_cuda.compare(renamed, FOUND) == [
        "sm_90 k<64>: in the budget but not in the build",
        "sm_90 j<64>: not in the budget",
    ]


def test_refuses_a_missing_architecture() -> None:
    found = {arch: FOUND[arch] for arch in ("sm_80", "sm_90")}
    assert check_cuda.compare(found, FOUND) == ["sm_100: expected kernels, found none"]
