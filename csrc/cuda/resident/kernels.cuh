// Which variation of the resident kernel serves a plan: one function for each unit, since a unit compiles
// what its function names. Guided: with a preconditioner or the stop by gain.
#pragma once
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {
namespace {

// For nets whose weight gradients take one register tile per thread (64-64).
template <bool kGuided>
ResidentKernel narrow_variation(const Plan& plan) {
  return plan.row_step == 4 ? resident_kernel<Variation<4, 1, false>, kGuided>
                            : resident_kernel<Variation<1, 1, false>, kGuided>;
}

// For larger nets: three register tiles per thread, weights on chip or streamed. Guided and streamed, a
// third would be spilled within the loop that adds to it.
template <bool kGuided>
ResidentKernel wide_variation(const Plan& plan) {
  constexpr int kStreamedSlots = kGuided ? 2 : 3;
  return plan.path == Path::kStreamed ? resident_kernel<Variation<1, kStreamedSlots, true>, kGuided>
         : plan.row_step == 2         ? resident_kernel<Variation<2, 3, false>, kGuided>
                                      : resident_kernel<Variation<1, 3, false>, kGuided>;
}

// In split precision every product is on tensor cores, for any number of rows a tile: `kSlots` blocks of
// 32 x 32 of weight gradient per warp, one for 64-64.
template <int kSlots, bool kGuided>
ResidentKernel split_variation() {
  return resident_kernel<SplitVariation<Fp16, kSlots>, kGuided>;
}

}  // namespace
}  // namespace trpo_fast::cuda
