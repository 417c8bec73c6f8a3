// Which variation of the resident kernel serves a plan: one function for each unit, since a unit compiles
// what its function names.
#pragma once
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {
namespace {

using ResidentKernel = void (*)(KernelArgs);

// For nets whose weight gradients take one register tile per thread (64-64).
template <bool kGuided>
ResidentKernel narrow_kernel(const Plan& plan) {
  return plan.row_step == 4 ? resident_kernel<Variation<4, 1, false>, kGuided>
                            : resident_kernel<Variation<1, 1, false>, kGuided>;
}

// For larger nets: three register tiles per thread, weights on chip or streamed.
template <bool kGuided>
ResidentKernel wide_kernel(const Plan& plan) {
  return plan.path == Path::kStreamed ? resident_kernel<Variation<1, 3, true>, kGuided>
         : plan.row_step == 2         ? resident_kernel<Variation<2, 3, false>, kGuided>
                                      : resident_kernel<Variation<1, 3, false>, kGuided>;
}

// In split precision: every product on tensor cores, any number of rows a tile.
template <bool kGuided>
ResidentKernel split_kernel(const Plan&) {
  return resident_kernel<SplitVariation<Fp16>, kGuided>;
}

cudaError_t launch_resident(ResidentKernel kernel, const KernelArgs& args, size_t shared_bytes,
                            cudaStream_t stream) {
  return launch(kernel, dim3(args.plan.grid), dim3(kThreads), shared_bytes, true, stream, args);
}

}  // namespace
}  // namespace trpo_fast::cuda
