// The guided resident kernel for larger nets.
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

ResidentKernel guided_wide_kernel(const Plan& plan) { return wide_variation<true>(plan); }

}  // namespace trpo_fast::cuda
