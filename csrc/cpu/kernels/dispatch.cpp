// Chooses a kernel table at run time. Other than x86-64, everything runs the portable kernels.
#include "cpu/kernels/dispatch.h"

#include "shared/check.h"

namespace trpo_fast::cpu {
#if defined(__x86_64__)
namespace {

CpuKernels split_kernels(int planes) {
  CpuKernels kernels = *trpo_fast_kernels_avx512();
  trpo_fast_replace_products_amx(&kernels, planes);
  return kernels;
}

}  // namespace
#endif

const CpuKernels& kernels_for([[maybe_unused]] Isa isa, int bf16_planes) {
#if defined(__x86_64__)
  if (bf16_planes > 0) {
    TRPO_CHECK(isa >= Isa::kAmx, "AMX tiles for split precision", isa_name(isa));
    static const CpuKernels two = split_kernels(2), three = split_kernels(3);
    return bf16_planes == 2 ? two : three;
  }
  if (isa >= Isa::kAvx512) return *trpo_fast_kernels_avx512();
  if (isa == Isa::kAvx2) return *trpo_fast_kernels_avx2();
#endif
  TRPO_CHECK(bf16_planes == 0, "AMX tiles for split precision", isa_name(isa));
  return *trpo_fast_kernels_base();
}

}  // namespace trpo_fast::cpu
