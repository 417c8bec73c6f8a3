// The resident kernel for nets whose weight gradients take one register tile per thread (64-64).
#include "cuda/resident/resident.cuh"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {

ResidentKernel narrow_kernel(const Plan& plan) {
  return plan.row_step == 4 ? resident_kernel<Variation<4, 1, false>>
                            : resident_kernel<Variation<1, 1, false>>;
}

}  // namespace trpo_fast::cuda
