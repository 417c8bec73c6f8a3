// The resident kernel for larger nets: three register tiles per thread, weights on chip or streamed.
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {

ResidentKernel wide_kernel(const Plan& plan) {
  if (plan.path == Path::kStreamed) return resident_kernel<Variation<1, 3, true>>;
  return plan.row_step == 2 ? resident_kernel<Variation<2, 3, false>>
                            : resident_kernel<Variation<1, 3, false>>;
}

}  // namespace trpo_fast::cuda
