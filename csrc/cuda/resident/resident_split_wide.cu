// The resident kernel in split precision for larger nets.
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

ResidentKernel split_wide_kernel() { return split_variation<kSplitSlots, false>(); }

}  // namespace trpo_fast::cuda
