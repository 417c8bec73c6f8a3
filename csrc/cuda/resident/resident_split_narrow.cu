// The resident kernel in split precision, every product on tensor cores, for nets whose weight gradients
// take one block of 32 x 32 per warp (64-64).
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {

ResidentKernel split_narrow_kernel() { return resident_kernel<SplitVariation<Fp16, 1>>; }

}  // namespace trpo_fast::cuda
