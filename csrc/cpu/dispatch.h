// The kernels for the instruction set in use (features.h).
#pragma once
#include "cpu/features.h"
#include "cpu/kernels.h"

namespace trpo_fast {

const CpuKernels& kernels_for(Isa isa);

}  // namespace trpo_fast
