// The guided resident kernel for nets of one register tile of weight gradients per thread (64-64).
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

ResidentKernel guided_narrow_kernel(const Plan& plan) { return narrow_variation<true>(plan); }

}  // namespace trpo_fast::cuda
