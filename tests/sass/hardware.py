"""What the model takes an H200's multiprocessor to do, each number with where it comes from.

Guide: the arithmetic throughput table of the CUDA programming guide, compute capability 9.0: what a
multiprocessor puts out a clock, divided among its four schedulers. Micro: published measurements of
Hopper (pointer chases; tensor cores by mma.sync). Assumed: no better source. What has a fixed
latency (FFMA, integers, HMMA) is not here: the compiler wrote it into the binary as stalls.
"""

from __future__ import annotations

CLOCK_GHZ = 1.755  # sustained by an H200; the review's
GRID_BARRIER_US = 1.4  # the review's: one atomic, polling, two barriers of the block; assumed
SCHEDULERS = 4

# Clocks that an instruction keeps its scheduler's pipe busy.
FMA, ALU, HEAVY, DOUBLE, SPECIAL, TENSOR, UNIFORM = (
    "fma", "alu", "imad", "fp64", "special", "tensor", "uniform",
)  # fmt: skip
PIPE_CLOCKS = {
    FMA: 1.0,  # guide: 128 results
    ALU: 2.0,  # guide: 64 results
    HEAVY: 2.0,  # guide: 64 integer products
    DOUBLE: 2.0,  # guide: 64 results
    SPECIAL: 8.0,  # guide: 16 results; conversions to and from 64 bits as well
    TENSOR: 6.4,  # micro: m16n8k16 by mma.sync reaches 63 % of 512 multiply-adds a scheduler
    UNIFORM: 2.0,  # assumed
}
PIPES = {
    FMA: "FFMA FADD FMUL FSWZADD",
    HEAVY: "IMAD FCHK",
    DOUBLE: "DFMA DADD DMUL DSETP",
    SPECIAL: "MUFU F2F I2F F2I FRND FLO POPC",
    TENSOR: "HMMA",
    UNIFORM: "ULDC UMOV UIADD3 UIMAD ULEA USHF ULOP3 UPRMT USEL UISETP UPOPC UPLOP3 R2UR VOTEU",
    ALU: "IADD3 LOP3 SHF LEA ISETP FSETP SEL FSEL MOV PRMT PLOP3 VIADD VIMNMX VIMNMX3 VIADDMNMX "
    "FMNMX IABS P2R R2P CS2R HFMA2 HADD2 F2FP FSET I2FP VOTE",
}
PIPE_OF = {name: pipe for pipe, names in PIPES.items() for name in names.split()}

# Clocks from issue to a result that others wait for by a barrier of the scoreboard.
SHARED_LATENCY = 29  # micro: shared memory, one wavefront
L1_LATENCY = 40  # micro
L2_LATENCY = 265  # micro: average of the near and the far half
L2_CLOCKS_A_SECTOR = 1.14  # micro: 5.6 TB/s by the 114 multiprocessors of an H100 PCIe at 1.755 GHz
CONSTANT_LATENCY = 30  # micro: indexed constants that hit
SHUFFLE_LATENCY = 24  # micro
REDUCE_LATENCY = 24  # assumed: as a shuffle
SPECIAL_LATENCY = 20  # micro: MUFU, on top of its pipe
REGISTER_LATENCY = 20  # assumed: S2R, S2UR and others that are rare
OPERANDS_READ = 12  # assumed: until a store's or load's registers may be written again
BARRIER_CLOCKS = 20  # micro: __syncthreads of 256 threads that are all there
