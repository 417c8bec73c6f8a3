// What a net sees of an observation where a normaliser is given. The torch twin is
// trpo_fast/learner/normalise.py:normalised.
#pragma once
#include "shared/heads.h"

namespace trpo_fast {
namespace {

// clip((x - shift) * scale); comparisons that keep a NaN, as torch.clamp does.
TRPO_HOST_DEVICE float normalised(float x, float shift, float scale, float clip) {
  x = (x - shift) * scale;
  x = x > clip ? clip : x;
  return x < -clip ? -clip : x;
}

}  // namespace
}  // namespace trpo_fast
