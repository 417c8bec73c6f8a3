// Host entries of the resident kernel's units, so that they compile side by side.
#pragma once
#include "cuda/resident/stage.cuh"

namespace trpo_fast::cuda {

cudaError_t launch_resident_narrow(const KernelArgs& args, size_t shared_bytes,
                                   cudaStream_t stream);
cudaError_t launch_resident_wide(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream);
cudaError_t launch_resident_split(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream);

// The same with a preconditioner or the stop by gain.
cudaError_t launch_guided_narrow(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream);
cudaError_t launch_guided_wide(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream);
cudaError_t launch_guided_split(const KernelArgs& args, size_t shared_bytes, cudaStream_t stream);

}  // namespace trpo_fast::cuda
