// The resident kernel for larger nets.
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

ResidentKernel wide_kernel(const Plan& plan) { return wide_variation<false>(plan); }

}  // namespace trpo_fast::cuda
