// The kernels for AVX-512 (x86-64-v4). 6 x 64 tiles: 24 accumulators. 12 x 32, as many and with panels
// twice as deep in L1, lost: one thread, 17-64-64-6 150 against 164 GF/s, 60-256-128-64-8 154 / 157.
#define TRPO_ISA_VECTOR 16
#define TRPO_ISA_PANEL 64
#define TRPO_ISA_TILE_ROWS 6
#define TRPO_ISA_SYMBOL trpo_fast_kernels_avx512
#include "cpu/kernels/kernels.inc"
