"""tests/sass: the parser, the interpreter and the clock of the model on SASS written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sass import check, fit, hardware, listing, predict
from sass.machine import Launch, Machine
from sass.printing import print_phases
from sass.timing import Simulation
from sass.warps import Runner

ARENA = 1 << 32
WARP = 32


def assemble(text: str) -> list[listing.Instruction]:
    """One instruction a line, and its schedule: `FADD R1, R1, R2 ; stall=4 write=0 waits=3`."""
    code = []
    for i, line in enumerate(text.strip().splitlines()):
        words, _, schedule = line.strip().partition(";")
        ins = listing.parse_line(f"        /*{16 * i:04x}*/    {words.strip()} ;")
        assert ins, line
        for item in schedule.split():
            name, value = item.split("=")
            where = {"write": "write_barrier", "read": "read_barrier"}.get(name, name)
            setattr(ins, where, int(value))
        code.append(ins)
    return code


def run(text: str, threads: int = WARP, words=(), constants=()) -> Machine:
    memory = np.zeros(64, np.uint32)
    memory[: len(words)] = words
    bank = np.zeros(64, np.uint32)
    bank[: len(constants)] = constants
    machine = Machine(assemble(text), Launch({0: bank, 2: bank}, memory, ARENA, threads, 1))
    Runner(machine).run()
    return machine


def clocks(text: str, threads: int = WARP) -> float:
    """Of the first phase, without the barrier that ends it."""
    machine = run(text, threads)
    phase = Simulation(machine.code, machine.trace, threads // WARP).run()[0]
    return phase.clocks - hardware.BARRIER_CLOCKS


def test_an_instruction_is_parsed_with_its_schedule() -> None:
    kernels = listing.parse_listing(
        """
		Function : kernel
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64+0x10] ;  /* 0x0000000000000000 */
                                                                          /* 0x00ea8a000c1e1900 */
        /*0020*/                   FFMA R0, R1.reuse, -R2, |R3| ;         /* 0x0000000000000000 */
                                                                          /* 0x000fc80000000000 */
"""
    )
    load, fused = kernels["kernel"]
    assert (load.address, load.guard, load.negated) == (16, "P0", True)
    assert load.words == ("LDG", "E", "128")
    assert load.operands == ["R4", "desc[UR4][R2.64+0x10]"]
    assert (load.stall, load.write_barrier, load.read_barrier, load.waits) == (5, 2, 5, 14)
    assert fused.operands == ["R0", "R1", "-R2", "|R3|"]
    assert (fused.stall, fused.write_barrier, fused.waits) == (4, listing.NO_BARRIER, 0)


LANE = np.arange(WARP, dtype=np.uint32)
ARITHMETIC = [
    ("IADD3 R1, R0, -0x3, RZ", LANE - np.uint32(3)),
    ("IADD3 R1, R0, -R0, 0x7", np.full(WARP, 7)),
    ("IMAD R1, R0, 0x5, R0", 6 * LANE),
    ("IMAD.HI R1, R0, 0x55555556, RZ", LANE // 3),
    ("LEA R1, R0, 0x3, 0x2", 4 * LANE + 3),
    ("LEA.HI.SX32 R1, R0, 0xffffffff, 0x1e", LANE // 4 - np.uint32(1)),
    ("SHF.R.U32.HI R1, RZ, 0x2, R0", LANE >> 2),
    ("SHF.L.U32 R1, R0, 0x4, RZ", LANE << 4),
    ("LOP3.LUT R1, R0, 0x6, RZ, 0x3c, !PT", LANE ^ 6),
    ("LOP3.LUT R1, R0, 0x6, R0, 0xf8, !PT", LANE),
    ("VIADDMNMX R1, R0, 0x2, 0x9, PT", np.minimum(LANE + 2, 9)),
    ("PRMT R1, R0, 0x1000, RZ", LANE << 8 | LANE << 16 | LANE),
    ("SHFL.BFLY PT, R1, R0, 0x1, 0x1f", LANE ^ 1),
    ("REDUX.MAX R1, R0", np.full(WARP, 31)),
    ("HFMA2.MMA R1, -RZ, RZ, 0, 9.5367431640625e-07", np.full(WARP, 16)),
    ("LDC R1, c[0x0][0x4]", np.full(WARP, 77)),
    ("LDC.U8 R1, c[0x0][0xa]", np.full(WARP, 0xFE)),
    ("LDC.S8 R1, c[0x0][0xa]", np.full(WARP, 0xFFFFFFFE)),
    ("LDC.S16 R1, c[0x0][0x8]", np.full(WARP, 0x0102)),
]


@pytest.mark.parametrize(("line", "expected"), ARITHMETIC, ids=[a[0] for a in ARITHMETIC])
def test_integers(line: str, expected) -> None:
    machine = run(f"S2R R0, SR_LANEID\n{line}\nEXIT", constants=(0, 77, 0x00FE0102))
    assert np.array_equal(machine.r[1], np.asarray(expected).astype(np.uint32))


def test_votes_of_a_warp() -> None:
    machine = run(
        """
        S2R R0, SR_TID.X
        ISETP.GE.U32.AND P0, PT, R0, 0x1e, PT
        VOTE.ANY R1, P1, P0
        VOTE.ALL P2, P0
        VOTEU.ANY UR4, UPT, PT
        EXIT
        """,
        threads=3 * WARP,
    )
    assert machine.r[1, ::WARP].tolist() == [3 << 30, 2**32 - 1, 2**32 - 1]
    assert machine.p[1].all() and machine.p[2, ::WARP].tolist() == [False, True, True]
    assert (machine.u[4] == 2**32 - 1).all()


def test_numbers_of_64_bits_carry() -> None:
    machine = run(
        """
        S2R R0, SR_LANEID
        MOV R1, 0x0
        IADD3 R2, P0, R0, -0x1, RZ
        IADD3.X R3, R1, -0x1, RZ, P0, !PT
        IADD3 R4, P1, RZ, -R2, RZ
        IADD3.X R5, RZ, ~R3, RZ, P1, !PT
        ISETP.GE.U32.AND P2, PT, R2, RZ, PT
        ISETP.GE.AND.EX P2, PT, R3, RZ, PT, P2
        IMAD.WIDE.U32 R6, R2, R2, RZ
        EXIT
        """
    )
    value = LANE.astype(np.int64) - 1
    assert np.array_equal(machine.pair("R2").view(np.int64), value)
    assert np.array_equal(machine.pair("R4").view(np.int64), -value)
    assert np.array_equal(machine.p[2], value >= 0)
    squares = (value & 0xFFFFFFFF).astype(np.uint64) ** 2
    assert np.array_equal(machine.pair("R6"), squares)


def test_lanes_that_diverge_meet_again() -> None:
    text = """
        S2R R0, SR_TID.X
        MOV R1, 0x0
        BSSY B0, 0x80
        ISETP.GT.U32.AND P0, PT, R0, 0x3, PT
        @P0 BRA 0x80
        IADD3 R1, R1, 0x1, RZ
        ISETP.LT.U32.AND P1, PT, R1, R0, PT
        @P1 BRA 0x50
        BSYNC B0
        IADD3 R1, R1, 0x64, RZ
        EXIT
    """
    machine = run(text, threads=2 * WARP)
    assert machine.r[1, :6].tolist() == [101, 101, 102, 103, 100, 100]
    executed = [step.index for step in machine.trace if step.warps[0]]
    assert executed.count(9) == 1 and executed.count(5) == 3
    second = [step.index for step in machine.trace if step.warps[1]]
    assert 5 not in second and second.count(9) == 1


def test_requests_are_counted_in_wavefronts_and_sectors() -> None:
    machine = run(
        """
        S2R R0, SR_LANEID
        SHF.L.U32 R1, R0, 0x2, RZ
        LDS R2, [R1+0x400]
        SHF.L.U32 R1, R0, 0x3, RZ
        LDS R2, [R1+0x400]
        LDS R2, [UR0+0x400]
        LDS.128 R4, [R1+0x400]
        MOV R8, 0x0
        MOV R9, 0x1
        LDG.E R2, desc[UR2][R8.64+0x4]
        LDG.E R3, desc[UR2][R8.64+0x8]
        LDG.E.STRONG.GPU R3, desc[UR2][R8.64+0x8]
        EXIT
        """.replace("LDS.128 R4, [R1+0x400]", "SHF.L.U32 R1, R0, 0x4, RZ\nLDS.128 R4, [R1+0x400]"),
        words=(5, 6, 7),
    )
    costs = [int(step.cost[0]) for step in machine.trace if step.cost is not None]
    assert costs == [1, 2, 1, 4, 1, 0, 1]  # the second load of a sector finds it in L1
    assert machine.r[2, 0] == 6 and machine.r[3, 31] == 7


def test_the_tensor_product_is_that_of_its_fragments() -> None:
    random = np.random.default_rng(1)
    a, b = random.standard_normal((16, 16)), random.standard_normal((16, 8))
    machine = Machine(
        assemble("HMMA.16816.F32 R8, R0, R4, RZ\nEXIT"),
        Launch({0: np.zeros(4, np.uint32)}, np.zeros(4, np.uint32), ARENA, WARP, 1),
    )
    group, pair = LANE // 4, LANE % 4
    for i in range(4):
        rows, columns = group + 8 * (i & 1), 2 * pair + 8 * (i >> 1)
        halves = np.stack([a[rows, columns], a[rows, columns + 1]], axis=1).astype(np.float16)
        machine.r[i] = np.ascontiguousarray(halves).view(np.uint32)[:, 0]
    for i in range(2):
        terms = 2 * pair + 8 * i
        halves = np.stack([b[terms, group], b[terms + 1, group]], axis=1).astype(np.float16)
        machine.r[4 + i] = np.ascontiguousarray(halves).view(np.uint32)[:, 0]
    Runner(machine).run()
    expected = a @ b
    for i in range(4):
        got = machine.r[8 + i].view(np.float32)
        wanted = expected[group + 8 * (i >> 1), 2 * pair + (i & 1)]
        assert np.allclose(got, wanted, atol=2e-2)


@pytest.mark.parametrize("word", ["M88", "MT88"])
def test_matrices_are_loaded_as_fragments(word: str) -> None:
    machine = Machine(
        assemble(f"ISETP.GT.U32.AND P0, PT, R1, RZ, PT\n@!P0 LDSM.16.{word}.2 R4, [R0]\nEXIT"),
        Launch({0: np.zeros(4, np.uint32)}, np.zeros(4, np.uint32), ARENA, 2 * WARP, 1),
    )
    values = np.arange(256, dtype=np.uint16)
    machine.shared[:128] = values.view(np.uint32)
    machine.r[0, :WARP] = 16 * LANE  # row i of both matrices, one after the other
    machine.r[0, WARP:], machine.r[1, WARP:] = 0xFFFFFF, 1  # a warp that takes no part
    Runner(machine).run()
    group, pair = LANE // 4, LANE % 4
    for i, matrix in enumerate(values[:128].reshape(2, 8, 8)):
        wanted = matrix.T if word == "MT88" else matrix
        got = machine.r[4 + i, :WARP].view(np.uint16).reshape(WARP, 2)
        assert np.array_equal(got, np.stack([wanted[group, 2 * pair + j] for j in (0, 1)], axis=1))
    assert machine.trace[1].cost.tolist() == [2, 0]


FUSED = "FFMA R1, R1, R1, R1"


@pytest.mark.parametrize(
    ("line", "threads", "expected"),
    [
        (f"{FUSED} ; stall=4", WARP, 40),  # a chain of one warp
        (f"{FUSED} ; stall=4", 4 * WARP, 40),  # four schedulers side by side
        (f"{FUSED} ; stall=4", 16 * WARP, 40),  # four chains fill a scheduler
        (f"{FUSED} ; stall=1", 8 * WARP, 20),  # two warps issue in turn
        ("LOP3.LUT R1, R1, R1, RZ, 0xc0, !PT ; stall=1", 8 * WARP, 40),  # half a warp a clock
        ("DADD R2, R2, R4 ; stall=1", 8 * WARP, 40),
        ("MUFU.EX2 R1, R1 ; stall=1", 4 * WARP, 80),
    ],
)
def test_ten_of_one_instruction(line: str, threads: int, expected: float) -> None:
    text = "\n".join([line] * 10 + ["BAR.SYNC 0x0", "EXIT"])
    assert abs(clocks(text, threads) - expected) <= 8


def test_a_load_is_waited_for_by_its_barrier() -> None:
    load, use = "LDS R2, [RZ+0x400] ; stall=1 write=0", "FADD R3, R2, R2 ; waits=1 stall=4"
    once = clocks(f"{load}\n{use}\nBAR.SYNC 0x0\nEXIT")
    assert once == hardware.SHARED_LATENCY + 4
    twice = clocks(f"{load}\n{use}\n{load}\n{use}\nBAR.SYNC 0x0\nEXIT")
    assert twice == 2 * once
    together = clocks(f"{load}\n{load}\n{use}\nBAR.SYNC 0x0\nEXIT")
    assert together == once + 1  # two wavefronts, one wait


def test_all_warps_share_the_wavefronts() -> None:
    conflict = "S2R R0, SR_LANEID\nSHF.L.U32 R1, R0, 0x7, RZ\n"
    text = conflict + "LDS R2, [R1+0x400] ; write=0\n" * 4 + "FADD R3, R2, R2 ; waits=1\n"
    assert clocks(text + "BAR.SYNC 0x0\nEXIT", 8 * WARP) >= 8 * 4 * 32


def test_a_grid_barrier_has_a_price_of_its_own() -> None:
    text = """
        MOV R8, 0x0
        MOV R9, 0x1
        BAR.SYNC 0x0
        S2R R0, SR_TID.X
        ISETP.NE.AND P0, PT, R0, RZ, PT
        @!P0 ATOM.E.ADD.STRONG.GPU PT, R7, desc[UR2][R8.64+0x4], R8
        BAR.SYNC 0x0
        EXIT
    """
    machine = run(text)
    phases = Simulation(machine.code, machine.trace, 1).run()
    assert [phase.grid for phase in phases] == [False, True, False]
    assert phases[1].clocks == hardware.GRID_BARRIER_US * hardware.CLOCK_GHZ * 1000


def test_phases_are_printed_with_where_the_time_goes(capsys) -> None:
    load = "LDS R2, [RZ+0x400] ; write=0\nFADD R3, R2, R2 ; waits=1 stall=4\n"
    machine = run(f"{load}BAR.SYNC 0x0\nEXIT")
    phases = Simulation(machine.code, machine.trace, 1).run()
    print_phases(phases[:1], machine.code, {16: "vjp.cuh:7", 32: "jvp.cuh:22"}, 1)
    row, spent = capsys.readouterr().out.splitlines()[1:]
    assert row.split()[:1] == ["jvp.cuh:22"] and row.split()[3:6] == ["53", "3", "1"]
    assert spent.split() == ["4", "clocks", "at", "vjp.cuh:7"]


def test_unknown_instructions_are_named() -> None:
    with pytest.raises(NotImplementedError, match=r"0x10: FROB\.X"):
        run("NOP\nFROB.X R1, R2\nEXIT")


def test_times_may_fall_and_grow_by_a_little() -> None:
    budget = json.loads(check.BUDGET.read_text())
    assert check.compare(budget, budget) == []
    for factor, wrong in ((0.5, 0), (1.02, 0), (1.05, 1)):
        changed = {**budget, "C1 fp32": {**budget["C1 fp32"]}}
        changed["C1 fp32"]["product"] *= factor
        said = check.compare(changed, budget)
        assert len(said) == wrong and all("C1 fp32: a product and its step" in s for s in said)
    assert len(check.compare({}, budget)) == len(budget)


def test_the_page_has_the_predictions_of_the_budget() -> None:
    budget = json.loads(check.BUDGET.read_text())
    assert set(budget) == {f"{c} {p}" for c in predict.CASES for p in predict.PRECISIONS}
    assert check.fill_page(budget) == check.PAGE.read_text(), "run python -m tests.sass.check"


def test_a_fit_goes_through_its_points_and_rewrites_its_table(monkeypatch) -> None:
    assert fit.line((1000, 5.0), (3000, 9.0)) == pytest.approx((3.0, 2.0))
    assert fit.line((1000, 5.0), (3000, 3.0)) == (4.0, 0.0)
    assert fit.line((1000, 1.0), (3000, 9.0)) == (0.0, 2.0)
    asked = []

    def fitted(cubins, shape, nets):
        asked.append((shape.precision, shape.path, shape.row_step, shape.slots))
        return [(1.5, 0.25), (2, 0)] if shape.slots == 1 else None

    monkeypatch.setattr(fit, "fit_variant", fitted)
    before = fit.HEADER.read_text()
    after = fit.rewrite(before, [])
    assert after.count("{1.50f, 0.25f}, {2.00f, 0.00f}") == sum(a[3] == 1 for a in asked) >= 5
    assert ("fp32", fit.STREAMED, 1, 3) in asked and ("fp16x3", fit.RESIDENT, 4, 1) in asked
    assert fit.rewrite(after, []) == after and after.count("\n") == before.count("\n")


def test_a_launch_is_that_of_an_h200() -> None:
    told = predict.launch_of(predict.shape_of("C2", "fp32"))
    assert (told["grid"], told["threads"], told["own"], told["row_step"]) == (132, 256, 3, 4)
    launch = predict.make_launch(told, b"")
    words = np.frombuffer(bytes.fromhex(told["arguments"]), np.uint32)
    assert np.array_equal(launch.constants[0][predict.PARAMETERS // 4 :][: len(words)], words)
    assert predict.kernel_name(told, "fp32") == "9VariationILi4ELi1ELb0EEELb0E"
