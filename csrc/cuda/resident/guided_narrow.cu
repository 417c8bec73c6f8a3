// The resident kernel with a preconditioner or the stop by gain for nets of one register tile of weight gradients per thread (64-64).
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

cudaError_t launch_guided_narrow(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream) {
  return launch_resident(narrow_kernel<true>(args.plan), args, shared_bytes, stream);
}

}  // namespace trpo_fast::cuda
