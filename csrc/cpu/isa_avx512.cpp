#define TRPO_ISA_VECTOR 16
#define TRPO_ISA_PANEL 32
#define TRPO_ISA_TILE_ROWS 12
#define TRPO_ISA_SYMBOL trpo_fast_kernels_avx512
#include "cpu/kernels.inc"
