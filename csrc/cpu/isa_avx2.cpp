#define TRPO_ISA_VECTOR 8
#define TRPO_ISA_PANEL 16
#define TRPO_ISA_TILE_ROWS 6
#define TRPO_ISA_SYMBOL trpo_fast_kernels_avx2
#include "cpu/kernels.inc"
