// The guided resident kernel in split precision for nets of one block of weight gradients per warp (64-64).
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

ResidentKernel guided_split_narrow_kernel() { return split_variation<1, true>(); }

}  // namespace trpo_fast::cuda
