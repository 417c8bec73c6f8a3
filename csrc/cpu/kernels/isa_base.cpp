// The kernels for any CPU, on vectors of four floats (SSE2, NEON). 4 x 8 tiles: 8 accumulators.
#define TRPO_ISA_VECTOR 4
#define TRPO_ISA_PANEL 8
#define TRPO_ISA_TILE_ROWS 4
#define TRPO_ISA_SYMBOL trpo_fast_kernels_base
#include "cpu/kernels/kernels.inc"
