// The resident kernel in split precision: every product on tensor cores, any number of rows a tile.
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {

cudaError_t launch_resident_split(const KernelArgs& args, size_t shared_bytes,
                                  cudaStream_t stream) {
  return launch(resident_kernel<SplitVariation<Fp16>>, dim3(args.plan.grid), dim3(kThreads),
                shared_bytes, true, stream, args);
}

}  // namespace trpo_fast::cuda
