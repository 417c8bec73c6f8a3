// What every stage needs of the activation: it as a constant, and act' from what the forward kept.
#pragma once
#include "cpu/kernels/plan.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/vmath.h"

namespace trpo_fast::cpu {
namespace {

// Calls f with the activation as a constant.
template <class F>
TRPO_INLINE void with_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::kTanh:
      return f.template operator()<Activation::kTanh>();
    case Activation::kRelu:
      return f.template operator()<Activation::kRelu>();
    case Activation::kElu:
      return f.template operator()<Activation::kElu>();
    case Activation::kSilu:
      return f.template operator()<Activation::kSilu>();
    case Activation::kGelu:
      return f.template operator()<Activation::kGelu>();
    case Activation::kIdentity:
      return f.template operator()<Activation::kIdentity>();
  }
}

TRPO_INLINE const float* slope_source(const Plan& plan, const Block& block, int l) {
  return vmath::slope_from_value(plan.net.activation) ? block.hidden[l] : block.slope[l];
}

// act' from the activation's value, or read from its own plane.
template <Activation A>
struct SlopeEpilogue {
  static constexpr bool kReads = A != Activation::kIdentity, kLast = true;
  static TRPO_INLINE V slope(V x) {
    if constexpr (vmath::slope_from_value(A)) {
      return vmath::slope<A, V>(x);
    } else {
      return x;
    }
  }
};

}  // namespace
}  // namespace trpo_fast::cpu
