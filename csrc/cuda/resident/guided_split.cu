// The guided resident kernel in split precision, for nets of any size.
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

ResidentKernel guided_split_kernel() { return split_variation<kSplitSlots, true>(); }

}  // namespace trpo_fast::cuda
