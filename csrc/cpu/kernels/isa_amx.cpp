// Split precision on AMX tiles: the table of AVX-512 with its matrix products replaced.
#define TRPO_ISA_VECTOR 16
#define TRPO_ISA_PANEL 64
#define TRPO_ISA_TILE_ROWS 6
#include "cpu/kernels/isa.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/tile_stages.h"

namespace trpo_fast::cpu {
namespace {

template <int PLANES>
void replace_products(CpuKernels* kernels) {
  kernels->split = true;
  kernels->tile_rows = kSquare;
  kernels->split_weights = split_weights<kPlanes>;
  kernels->split_v = split_weights<PLANES>;
  kernels->split_back = split_back<PLANES>;
  kernels->split_inputs = split_inputs<PLANES>;
  kernels->forward = tile_forward;
  kernels->jvp = tile_jvp<PLANES>;
  kernels->vjp = tile_vjp<PLANES>;
}

}  // namespace
}  // namespace trpo_fast::cpu

// Expects the table of trpo_fast_kernels_avx512 in `kernels`, and two planes or three.
extern "C" void trpo_fast_replace_products_amx(trpo_fast::cpu::CpuKernels* kernels, int planes) {
  using namespace trpo_fast::cpu;
  planes == kPlanes ? replace_products<3>(kernels) : replace_products<2>(kernels);
}
