// The guided resident kernel in split precision for larger nets.
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

ResidentKernel guided_split_wide_kernel() { return split_variation<kSplitSlots, true>(); }

}  // namespace trpo_fast::cuda
