// act: observations of all environments -> actions, log-probabilities and values, in one call.
#pragma once
#include "cpu/kernels.h"

namespace trpo_fast {

struct ActNet {
  NetShape shape;
  const float* theta;  // [P] flat, as the module keeps it; null: this net is left out
};

struct ActParams {
  ActNet policy;
  ActNet critic;             // one output v; the value is value_shift + value_scale v
  const float* value_shift;  // [1] or null for 0
  const float* value_scale;  // [1] or null for 1
  int64_t count;             // E
  const float* obs;          // [E, O]
  const float* shift;        // [O] or null: the nets see clip((obs - shift) * scale)
  const float* scale;        // [O]
  float clip;
  float* seen;          // [E, O] or null: what the nets saw
  const uint8_t* mask;  // [E, Z] or null
  const float* noise;   // [E, A] normal for the Gaussians, [E, Z] uniform otherwise
  float* actions;       // [E, A] for the Gaussians and Bernoulli
  int64_t* choices;     // [E, factors] for the categorical heads
  float* log_probs;     // [E]
  float* values;        // [E]
};

void act(const ActParams& params, const CpuKernels& kernels, int threads);

}  // namespace trpo_fast
