"""The parser of check_cuda.py and its verdicts, on listings written by hand."""

from __future__ import annotations

import copy
import json

import check_cuda
import pytest

SASS = """
	code for sm_90
		Function : _Z1kv
        /*0000*/                   MOV R1, c[0x0][0x28] ;      /* 0x00000a0000017a02 */
                                                               /* 0x000fe40000000f00 */
        /*0010*/                   STL.64 [R1], R2 ;
        /*0020*/                   LDG.E R3, [R4.64] ;
        /*0030*/              @!P0 LDL R5, [R1] ;
        /*0040*/                   FFMA R0, R0, R0, R0 ;
{body}
        /*0800*/               @P0 BRA 0x40 ;
        /*0810*/                   LD.E R3, [R4.64] ;
        /*0820*/                   LDGSTS.E.BYPASS.128 [R3], [R4.64] ;
        /*0830*/               @P1 BRA 0x10 ;
        /*0840*/                   BRA 0x840 ;
"""
RESOURCES = """
arch = sm_90
 Function _Z1kv:
  REG:96 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:1464
"""


def listing(hot: int, extra: str = "") -> dict[str, int]:
    lines = [f"        /*{0x50 + 16 * i:04x}*/  FFMA R0, R1, R2, R0 ;" for i in range(hot)]
    text = SASS.replace("{body}", "\n".join([*lines, extra]))
    return check_cuda.summarise(check_cuda.parse_sass(text)["_Z1kv", "sm_90"])


def test_instructions_are_counted_by_group() -> None:
    got = listing(3)
    assert {k: got[k] for k in check_cuda.GROUPS} == {
        "local": 2,
        "double": 0,
        "generic": 1,
        "ffma": 4,
        "hmma": 0,
        "cp_async": 1,
    }


@pytest.mark.parametrize(
    ("hot", "extra", "local", "double"),
    [
        (20, "", 0, 0),
        (20, "        /*07f0*/  LDL.128 R8, [R1+0x10] ;", 1, 0),
        (20, "        /*07f0*/  @P3 DADD R8, R8, R2 ;", 0, 1),
        (3, "        /*07f0*/  LDL R8, [R1+0x10] ;", 0, 0),
        (20, "\n".join(["        /*07f0*/  LDL R8, [R1+0x10] ;"] * 25), 0, 0),
    ],
)
def test_only_innermost_loops_that_multiply_are_hot(hot, extra, local, double) -> None:
    got = listing(hot, extra)
    assert (got["hot_local"], got["hot_double"]) == (local, double)


def test_resources() -> None:
    expected = {("_Z1kv", "sm_90"): {"registers": 96, "stack": 16}}
    assert check_cuda.parse_resources(RESOURCES) == expected


def test_kernels_are_named_readably() -> None:
    mangled = (
        "_ZN9trpo_fast4cuda51_GLOBAL__N__aff63727_18_resident_narrow_cu_27843436"
        "15resident_kernelINS1_9VariationILi1ELi1ELb0EEEEEvNS0_10KernelArgsE"
    )
    named = check_cuda.readable([mangled])
    assert named == {mangled: "resident_kernel<Variation<1, 1, false>>"}


def test_budget_is_one_sided() -> None:
    keys = (*check_cuda.AT_MOST, *check_cuda.PRESENT, *check_cuda.EXACT)
    numbers = dict.fromkeys(keys, 200)
    budget = {"k": {arch: dict(numbers) for arch in check_cuda.SHIPPED}}
    assert not check_cuda.compare(budget, budget)
    for key, free in check_cuda.AT_MOST.items():
        most = 200 + max(20, free)
        for value, expected in ((9, []), (most, []), (most + 1, [f"k sm_90: {key} {most + 1}"])):
            changed = copy.deepcopy(budget)
            changed["k"]["sm_90"][key] = value
            said = check_cuda.compare(changed, budget)
            assert [line.split(",")[0] for line in said] == expected
    for key in check_cuda.PRESENT:
        gone = copy.deepcopy(budget)
        gone["k"]["sm_100"][key] = 0
        assert check_cuda.compare(gone, budget) == [f"k sm_100: {key} gone, 200 in the budget"]
    for other in (0, 199, 201):
        changed = copy.deepcopy(budget)
        changed["k"]["sm_80"]["hmma"] = other
        assert check_cuda.compare(changed, budget) == [f"k sm_80: hmma {other}, expected 200"]
    assert len(check_cuda.compare({}, budget)) == len(check_cuda.compare(budget, {})) == 1


def test_what_was_not_built_is_not_compared(monkeypatch) -> None:
    keys = (*check_cuda.AT_MOST, *check_cuda.PRESENT, *check_cuda.EXACT)
    budget = {"k": {arch: dict.fromkeys(keys, 200) for arch in check_cuda.SHIPPED}}
    monkeypatch.setenv("TRPO_FAST_CUDA_ARCHS", "80,90+PTX")
    assert check_cuda.built_for() == ("sm_80", "sm_90")
    fewer = {"k": {arch: budget["k"][arch] for arch in check_cuda.built_for()}}
    assert not check_cuda.compare(fewer, budget, check_cuda.built_for())
    assert len(check_cuda.compare(fewer, budget)) == 1
    monkeypatch.delenv("TRPO_FAST_CUDA_ARCHS")
    assert check_cuda.built_for() == check_cuda.SHIPPED


def test_recorded_budget_spills_in_no_hot_loop() -> None:
    budget = json.loads(check_cuda.BUDGET.read_text())
    assert any("Split" in kernel for kernel in budget)
    for kernel, archs in budget.items():
        assert set(archs) == set(check_cuda.SHIPPED)
        for numbers in archs.values():
            assert numbers["hot_local"] == 0 and numbers["ffma"] > 0
            assert numbers["cp_async"] > 0 or "resident" not in kernel
            assert (numbers["hmma"] > 0) == ("Split" in kernel)
