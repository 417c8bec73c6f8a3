// Vector operations of CG on packed vectors: whole vectors of floats, dots accumulated in float64.
#pragma once
#include "cpu/kernels/simd.h"

namespace trpo_fast::cpu {
namespace {

void sum_lanes(const float* part, int64_t lanes, int64_t stride, int64_t begin, int64_t end,
               float* out) {
  for (int64_t i = begin; i < end; i += kVector) {
    V sum = load(part + i);
    for (int64_t lane = 1; lane < lanes; ++lane) sum += load(part + lane * stride + i);
    store(out + i, sum);
  }
}

// Sixteen partial sums: enough of them to hide the latency of float64 additions.
double dot(const float* a, const float* b, int64_t n) {
  constexpr int kSums = 16;
  double sum[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int j = 0; j < kSums; ++j) {
      sum[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    }
  }
  double total = 0.0;
  for (; i < n; ++i) total += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  for (int j = 0; j < kSums; ++j) total += sum[j];
  return total;
}

void axpy(float alpha, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kVector) store(y + i, load(y + i) + alpha * load(x + i));
}

void xpby(const float* x, float beta, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kVector) store(y + i, load(x + i) + beta * load(y + i));
}

// x - x is zero for finite x and NaN otherwise.
bool all_finite(const float* x, int64_t n) {
  constexpr int kSums = 16;
  float sum[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int j = 0; j < kSums; ++j) sum[j] += x[i + j] - x[i + j];
  }
  float total = 0.0f;
  for (; i < n; ++i) total += x[i] - x[i];
  for (int j = 0; j < kSums; ++j) total += sum[j];
  return total == 0.0f;
}

}  // namespace
}  // namespace trpo_fast::cpu
