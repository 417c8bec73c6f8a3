// The resident kernel for larger nets.
#include "cuda/resident/kernels.cuh"

namespace trpo_fast::cuda {

cudaError_t launch_resident_wide(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream) {
  return launch_resident(wide_kernel<false>(args.plan), args, shared_bytes, stream);
}

}  // namespace trpo_fast::cuda
