// The kernels of the resident kernel's units, which compile side by side.
#pragma once
#include "cuda/resident/stage.cuh"

namespace trpo_fast::cuda {

using ResidentKernel = void (*)(const KernelArgs);

ResidentKernel narrow_kernel(const Plan& plan);
ResidentKernel wide_kernel(const Plan& plan);
ResidentKernel split_narrow_kernel();
ResidentKernel split_wide_kernel();

// The same with a preconditioner or the stop by gain.
ResidentKernel guided_narrow_kernel(const Plan& plan);
ResidentKernel guided_wide_kernel(const Plan& plan);
ResidentKernel guided_split_kernel();  // of any net, since it takes a quarter of all compilation

}  // namespace trpo_fast::cuda
