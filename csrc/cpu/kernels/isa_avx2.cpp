// The kernels for AVX2 and FMA (x86-64-v3). 6 x 16 tiles: 12 accumulators of 16 registers.
#define TRPO_ISA_VECTOR 8
#define TRPO_ISA_PANEL 16
#define TRPO_ISA_TILE_ROWS 6
#define TRPO_ISA_SYMBOL trpo_fast_kernels_avx2
#include "cpu/kernels/kernels.inc"
