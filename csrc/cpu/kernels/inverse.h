// The inverse of a symmetric positive definite matrix in float64, by the sweep operator on blocks of
// pivots: with P = A_KK the block, A_KK <- -1 / P, A_RK <- A_RK / P, A_RR <- A_RR - A_RK / P A_KR. When
// every block was swept, A is minus its inverse; the pivots are those of Cholesky's factorisation.
#pragma once
#include "cpu/kernels/simd.h"

namespace trpo_fast::cpu {
namespace {

constexpr int kPivots = 8;             // of a block
constexpr int kDoubles = kVector / 2;  // of a vector
constexpr int kSweepRows = 4, kSweepVectors = kPivots / kDoubles < 2 ? 2 : kPivots / kDoubles;

typedef double D __attribute__((vector_size(kVector * 4)));

TRPO_INLINE D load(const double* p) { return *reinterpret_cast<const D*>(p); }
TRPO_INLINE void store(double* p, D x) { *reinterpret_cast<D*>(p) = x; }

// P <- 1 / P by Gauss and Jordan; false where a pivot is not positive and finite.
TRPO_INLINE bool invert_pivots(double (&p)[kPivots][kPivots]) {
  bool positive = true;
  for (int k = 0; k < kPivots; ++k) {
    const double pivot = p[k][k], by = 1.0 / pivot;
    positive = positive && pivot > 0.0 && pivot <= 1.7976931348623157e308;
    p[k][k] = 1.0;
    for (int j = 0; j < kPivots; ++j) p[k][j] *= by;
    for (int i = 0; i < kPivots; ++i) {
      if (i == k) continue;
      const double factor = p[i][k];
      p[i][k] = 0.0;
      for (int j = 0; j < kPivots; ++j) p[i][j] -= factor * p[k][j];
    }
  }
  return positive;
}

// Rows i .. i + kSweepRows - 1 of A less u' v, NV vectors from column j on.
template <int NV>
TRPO_INLINE void sweep_tile(double* a, const double* u, const double* v, int n, int i, int j) {
  D acc[kSweepRows][NV];
  for (int r = 0; r < kSweepRows; ++r) {
    for (int c = 0; c < NV; ++c) acc[r][c] = load(a + (i + r) * n + j + c * kDoubles);
  }
  for (int k = 0; k < kPivots; ++k) {
    D row[NV];
    for (int c = 0; c < NV; ++c) row[c] = load(v + k * n + j + c * kDoubles);
    for (int r = 0; r < kSweepRows; ++r) {
      const double factor = u[k * n + i + r];
      for (int c = 0; c < NV; ++c) acc[r][c] -= factor * row[c];
    }
  }
  for (int r = 0; r < kSweepRows; ++r) {
    for (int c = 0; c < NV; ++c) store(a + (i + r) * n + j + c * kDoubles, acc[r][c]);
  }
}

// The lower triangle of A less u' v.
TRPO_INLINE void sweep_rest(double* a, const double* u, const double* v, int n) {
  constexpr int kStep = kSweepVectors * kDoubles;
  for (int i = 0; i < n; i += kSweepRows) {
    const int end = (i + kSweepRows + kPivots - 1) / kPivots * kPivots;  // whole vectors
    int j = 0;
    for (; j + kStep <= end; j += kStep) sweep_tile<kSweepVectors>(a, u, v, n, i, j);
    for (; j < end; j += kDoubles) sweep_tile<1>(a, u, v, n, i, j);
  }
}

// v <- the rows of the pivots' block, zero at the block itself.
TRPO_INLINE void pivot_rows(const double* a, int n, int begin, double* v) {
  for (int k = 0; k < kPivots; ++k) {
    double* to = v + k * n;
    const double* from = a + int64_t{begin + k} * n;
    for (int j = 0; j < begin; j += kDoubles) store(to + j, load(from + j));
    for (int j = begin; j < begin + kPivots; ++j) to[j] = 0.0;
  }
  for (int j = begin + kPivots; j < n; ++j) {
    for (int k = 0; k < kPivots; ++k) v[k * n + j] = a[int64_t{j} * n + begin + k];
  }
}

// A [n, n] <- minus its inverse, lower triangle in and out, n whole blocks; 2 kPivots rows of scratch
// follow A. False, and A undefined, where A is not positive definite.
bool negative_inverse(double* a, int n) {
  double *v = a + int64_t{n} * n, *u = v + int64_t{kPivots} * n;
  for (int begin = 0; begin < n; begin += kPivots) {
    alignas(64) double p[kPivots][kPivots];
    for (int i = 0; i < kPivots; ++i) {
      for (int j = 0; j <= i; ++j) p[i][j] = p[j][i] = a[int64_t{begin + i} * n + begin + j];
    }
    if (!invert_pivots(p)) return false;
    pivot_rows(a, n, begin, v);
    for (int j = 0; j < n; j += kDoubles) {
      for (int i = 0; i < kPivots; ++i) {
        D sum{};
        for (int k = 0; k < kPivots; ++k) sum += p[i][k] * load(v + k * n + j);
        store(u + i * n + j, sum);
      }
    }
    sweep_rest(a, u, v, n);
    for (int k = 0; k < kPivots; ++k) {
      double* row = a + int64_t{begin + k} * n;
      for (int j = 0; j < begin; ++j) row[j] = u[k * n + j];
      for (int j = 0; j <= k; ++j) row[begin + j] = -p[k][j];
    }
    for (int j = begin + kPivots; j < n; ++j) {
      for (int k = 0; k < kPivots; ++k) a[int64_t{j} * n + begin + k] = u[k * n + j];
    }
  }
  return true;
}

}  // namespace
}  // namespace trpo_fast::cpu
