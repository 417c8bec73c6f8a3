// The resident kernel in split precision for larger nets: three blocks of weight gradient per warp.
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {

ResidentKernel split_wide_kernel() { return resident_kernel<SplitVariation<Fp16, kSplitSlots>>; }

}  // namespace trpo_fast::cuda
