// Chooses a kernel table at run time. Other than x86-64, everything runs the portable kernels.
#include "cpu/dispatch.h"

namespace trpo_fast {

const CpuKernels& kernels_for([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return *trpo_fast_kernels_avx512();
  if (isa == Isa::kAvx2) return *trpo_fast_kernels_avx2();
#endif
  return *trpo_fast_kernels_base();
}

}  // namespace trpo_fast
