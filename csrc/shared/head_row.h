// One row of a batch as the blocks of the heads see it, and the functions that they share.
//
// A row's distribution parameters are two strided vectors: `first` holds means, logits or the first half
// of z, `second` the log standard deviations [A] of kGaussian, which are parameters, otherwise the second
// half of z.
#pragma once
#include <math.h>

#include "shared/params.h"

#if defined(__CUDACC__)
#define TRPO_HOST_DEVICE __host__ __device__ __forceinline__
#define TRPO_ROLLED _Pragma("unroll 1")  // few turns each: nvcc's fourfold copies only cost code
#else
#define TRPO_HOST_DEVICE inline __attribute__((always_inline))
#define TRPO_ROLLED
#endif

// Every instruction-set unit of the CPU core gets its own copy, so none can leak into another.
namespace trpo_fast {
namespace {

template <class T>
struct Strided {
  T* base;
  int64_t stride;
  TRPO_HOST_DEVICE T& operator[](int i) const { return base[i * stride]; }
};

struct DistRow {
  Strided<const float> first;   // [A] means, or [Z] logits
  Strided<const float> second;  // [A] log_std
  const uint8_t* mask;          // [Z] or null
};

// A tangent, a cotangent or a gradient in distribution parameters, laid out like DistRow.
struct DistVector {
  Strided<float> first;
  Strided<float> second;
};

struct Action {
  const float* values;     // [A] for the Gaussians and Bernoulli
  const int64_t* choices;  // [factors] for the categorical heads
};

// What sample makes an action from, per row: kNormal [A], kUniform [Z] in [0, 1). Heads with kNone are
// sampled by torch alone.
enum class Noise { kNone, kNormal, kUniform };

TRPO_HOST_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// log(1 + exp(x)) without overflow or loss at either end.
TRPO_HOST_DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// Comparisons alone: false for NaN, and nothing that a standard library would add as a symbol.
TRPO_HOST_DEVICE bool usable_number(float x) { return fabsf(x) < INFINITY; }

}  // namespace
}  // namespace trpo_fast
