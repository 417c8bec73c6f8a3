// What the files of the CUDA core's bindings share: the connected table of kernels.
#pragma once
#include "cuda/api.h"

namespace trpo_fast {

const cuda::CudaApi& cuda_api();    // throws if nothing is connected
void check_cuda_status(int error);  // throws with CUDA's sentence
cuda::DeviceLimits cuda_device_limits(int device);

}  // namespace trpo_fast
