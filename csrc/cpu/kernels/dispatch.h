// The kernels for the instruction set in use (features.h).
#pragma once
#include "cpu/kernels/kernels.h"
#include "cpu/runtime/features.h"

namespace trpo_fast::cpu {

// bf16_planes: 0 for float32; 2 or 3 for products in split precision, which need kAmx.
const CpuKernels& kernels_for(Isa isa, int bf16_planes = 0);

}  // namespace trpo_fast::cpu
