// The resident kernel in split precision: every product on tensor cores, any number of rows a tile.
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {

ResidentKernel split_kernel() { return resident_kernel<SplitVariation<Fp16>>; }

}  // namespace trpo_fast::cuda
