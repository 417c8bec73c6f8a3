// Activations: value and slope at a pre-activation, and the slope from a cached value.
#pragma once
#include "cuda/resident/stage.cuh"

namespace trpo_fast::cuda {
namespace {

struct Activated {
  float4 value, slope;
};

// f(z, slope) of four values side by side.
template <class F>
__device__ __forceinline__ Activated each_activated(float4 z, F f) {
  Activated at = {};
  at.value.x = f(z.x, at.slope.x);
  at.value.y = f(z.y, at.slope.y);
  at.value.z = f(z.z, at.slope.z);
  at.value.w = f(z.w, at.slope.w);
  return at;
}

// act(z) of four values and, of silu and gelu, act'(z). Not inlined: the forward is a small part of an
// update, its code is not; four at a time, because one alone waits for itself at every instruction.
__device__ TRPO_NOINLINE Activated activate(Activation activation, float4 z4) {
  switch (activation) {
    case Activation::kTanh:
      return each_activated(z4, [](float z, float&) { return tanhf(z); });
    case Activation::kRelu:
      return each_activated(z4, [](float z, float&) { return z > 0.0f ? z : z == z ? 0.0f : z; });
    case Activation::kElu:
      return each_activated(z4, [](float z, float&) { return z > 0.0f ? z : expm1f(z); });
    case Activation::kSilu:
      return each_activated(z4, [](float z, float& slope) {
        const float s = sigmoid(z);
        slope = s * (1.0f + z * (1.0f - s));
        return z * s;
      });
    case Activation::kGelu:
      return each_activated(z4, [](float z, float& slope) {
        constexpr float kHalfSqrt = 0.70710678118654752f, kInverseSqrt2Pi = 0.39894228040143268f;
        const float cdf = 0.5f * erfcf(-z * kHalfSqrt);
        slope = cdf + z * expf(-0.5f * z * z) * kInverseSqrt2Pi;
        return z * cdf;
      });
    default:
      return {z4, {}};
  }
}

// Of the activations whose slopes a plane holds, any.
constexpr Activation kSlopesKept = Activation::kSilu;

// Calls body(kept, slope): slope(y) is act' where the plane `kept` holds y, which is `values`, the
// activation's, or `slopes`. One uniform branch outside of every loop.
template <class Body>
__device__ __forceinline__ void with_slope(Activation activation, const float* values,
                                           const float* slopes, Body body) {
  const float* h = on_chip(values);
  switch (activation) {
    case Activation::kTanh:
      return body(h, [](float y) { return 1.0f - y * y; });
    case Activation::kRelu:
      return body(h, [](float y) { return y > 0.0f ? 1.0f : 0.0f; });
    case Activation::kElu:
      return body(h, [](float y) { return y > 0.0f ? 1.0f : y + 1.0f; });
    case Activation::kIdentity:
      return body(h, [](float) { return 1.0f; });
    default:
      return body(on_chip(slopes), [](float y) { return y; });
  }
}

// act' as c0 + (c1 + c2 y) y cut to [0, 1], y being the activation's value: without a branch for each
// activation, where registers are short and code is long already. silu and gelu keep their slopes.
struct SlopeCurve {
  float c0, c1, c2;
};

__device__ __forceinline__ SlopeCurve slope_curve(Activation activation) {
  switch (activation) {
    case Activation::kTanh:
      return {1.0f, 0.0f, -1.0f};
    case Activation::kRelu:
      return {0.0f, 1.2676506e30f, 0.0f};  // 2^100: 1 for whatever is above zero
    case Activation::kElu:
      return {1.0f, 1.0f, 0.0f};
    default:
      return {1.0f, 0.0f, 0.0f};
  }
}

}  // namespace
}  // namespace trpo_fast::cuda
