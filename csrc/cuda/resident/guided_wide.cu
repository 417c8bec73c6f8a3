// The resident kernel with a preconditioner or the stop by gain for larger nets.
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

cudaError_t launch_guided_wide(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream) {
  return launch_resident(wide_kernel<true>(args.plan), args, shared_bytes, stream);
}

}  // namespace trpo_fast::cuda
