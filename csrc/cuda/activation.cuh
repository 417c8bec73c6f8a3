// Activations: value and slope at a pre-activation, and the slope from a cached value.
#pragma once
#include "cuda/stage.cuh"

namespace trpo_fast {
namespace {

// act(z) and act'(z). Not inlined: the forward is a small part of an update, its code is not.
__device__ TRPO_NOINLINE float activate(Activation activation, float z, float* slope) {
  switch (activation) {
    case Activation::kTanh:
      return tanhf(z);
    case Activation::kRelu:
      return z > 0.0f ? z : z == z ? 0.0f : z;
    case Activation::kElu:
      return z > 0.0f ? z : expm1f(z);
    case Activation::kSilu: {
      const float s = sigmoid(z);
      *slope = s * (1.0f + z * (1.0f - s));
      return z * s;
    }
    case Activation::kGelu: {
      constexpr float kHalfSqrt = 0.70710678118654752f, kInverseSqrt2Pi = 0.39894228040143268f;
      const float cdf = 0.5f * erfcf(-z * kHalfSqrt);
      *slope = cdf + z * expf(-0.5f * z * z) * kInverseSqrt2Pi;
      return z * cdf;
    }
    default:
      return z;
  }
}

// Calls body(slope), slope(row, column) being act' at that output of the map: one uniform branch
// outside of every loop.
template <class Body>
__device__ __forceinline__ void with_slope(Activation activation, const MapLayout& m,
                                           const float* tile, Body body) {
  const float* h = on_chip(tile + m.output);
  const float* cached = on_chip(tile + m.slope);
  const int stride = m.stride_out;
  switch (activation) {
    case Activation::kTanh:
      return body([=](int r, int c) {
        const float y = h[r * stride + c];
        return 1.0f - y * y;
      });
    case Activation::kRelu:
      return body([=](int r, int c) { return h[r * stride + c] > 0.0f ? 1.0f : 0.0f; });
    case Activation::kElu:
      return body([=](int r, int c) {
        const float y = h[r * stride + c];
        return y > 0.0f ? 1.0f : y + 1.0f;
      });
    case Activation::kIdentity:
      return body([](int, int) { return 1.0f; });
    default:
      return body([=](int r, int c) { return cached[r * stride + c]; });
  }
}

}  // namespace
}  // namespace trpo_fast
