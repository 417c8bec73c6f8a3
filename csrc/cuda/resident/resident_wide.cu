// The resident kernel for larger nets: three register tiles per thread, weights on chip or streamed.
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {

cudaError_t launch_resident_wide(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream) {
  const auto kernel = args.plan.path == Path::kStreamed ? resident_kernel<Variation<1, 3, true>>
                      : args.plan.row_step == 2         ? resident_kernel<Variation<2, 3, false>>
                                                        : resident_kernel<Variation<1, 3, false>>;
  return launch(kernel, dim3(args.plan.grid), dim3(kThreads), shared_bytes, true, stream, args);
}

}  // namespace trpo_fast::cuda
