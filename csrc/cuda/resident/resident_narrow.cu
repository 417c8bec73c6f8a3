// The resident kernel for nets whose weight gradients take one register tile per thread (64-64).
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {

cudaError_t launch_resident_narrow(const KernelArgs& args, size_t shared_bytes,
                                   cudaStream_t stream) {
  const auto kernel = args.plan.row_step == 4 ? resident_kernel<Variation<4, 1, false>>
                                              : resident_kernel<Variation<1, 1, false>>;
  return launch(kernel, dim3(args.plan.grid), dim3(kThreads), shared_bytes, true, stream, args);
}

}  // namespace trpo_fast::cuda
