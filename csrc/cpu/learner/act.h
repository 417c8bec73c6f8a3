// act: observations of all environments -> actions, log-probabilities and values, in one call.
#pragma once
#include "cpu/kernels/kernels.h"

namespace trpo_fast::cpu {

struct ActNet {
  NetShape shape;
  const float* theta;  // [P] flat, as the module keeps it; null: this net is left out
};

struct ActParams : ActRows {
  ActNet policy;
  ActNet critic;
};

void act(const ActParams& params, const CpuKernels& kernels, int threads);

}  // namespace trpo_fast::cpu
