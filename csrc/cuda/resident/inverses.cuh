// (A + pi s I)^-1 and (G + s / pi I)^-1 of every map, by sweeps over blocks of 16 pivots: in fp64, in the
// whole grid at once, factors of any size. A sweep of the pivots K takes D = X_KK, in every tile
//   X_KK = -D^-1,   X_iK = X_iK D^-1,   X_ij = X_ij - X_iK D^-1 X_Kj,
// and leaves -X^-1 after the last. Each step reads one list of tiles and writes the other, so that one
// grid barrier lies between steps; a block inverts D for itself. The pivots are those of a Cholesky
// factorisation: one that is not positive says that the matrix is not.
#pragma once
#include "cuda/resident/factors.cuh"

namespace trpo_fast::cuda {
namespace {

// What is added to the diagonal of a factor, by its pair's mean eigenvalues; each warp for itself.
__device__ __forceinline__ double factor_shift(const KernelArgs& a, int factor) {
  double mean[2];
  for (int side = 0; side < 2; ++side) {
    const FactorPlace& f = a.factors.factor[factor / 2 * 2 + side];
    double sum = 0;
    for (int d = lane_index(); d < f.size; d += 32) {
      const int block = d / kFactorSide, at = d % kFactorSide;
      sum += part_sum(a, a.factors.parts, f.first_tile + block * (block + 3) / 2,
                      at * kFactorSide + at);
    }
    mean[side] = warp_sum(sum) / f.size;
  }
  const double floor = mean[0] * mean[1] * kDampingFloor, damping = a.damping;
  const double shift = sqrt(kDampingShare * (floor < damping ? damping : floor));
  const double pi = fmin(fmax(sqrt(mean[0] / mean[1]), 1 / kBalanceLimit), kBalanceLimit);
  return factor % 2 ? shift / pi : shift * pi;
}

// A tile of the list that a step reads: this thread's element [row, column].
struct SweepStep {
  int list, pivot;  // the list that it reads, and the number of its block of pivots
  int factor;
  double shift;  // of the diagonal, in the first step

  // Of tile (i, j) of the symmetric matrix, of which the lower triangle is kept.
  __device__ __forceinline__ double load(const KernelArgs& a, int i, int j) const {
    int row = threadIdx.x / kFactorSide, column = threadIdx.x % kFactorSide;
    const double added = i == j && row == column ? shift : 0.0;
    if (i < j || (i == j && row < column)) {
      const int other = i, r = row;
      i = j, j = other, row = column, column = r;
    }
    const int t = a.factors.factor[factor].first_tile + i * (i + 1) / 2 + j;
    const int element = row * kFactorSide + column;
    return pivot == 0 ? part_sum(a, a.factors.parts, t, element) + added
                      : __ldcg(tile_sums(a, list, t) + element);
  }
};

// The thread's element of D becomes that of -D^-1; `width` of the 16 pivots exist. rows: [2, 16] of
// shared memory. False where a pivot is not positive. Opens with a barrier.
__device__ __forceinline__ bool block_sweep_pivots(double& d, int width, double* rows) {
  const int r = threadIdx.x / kFactorSide, c = threadIdx.x % kFactorSide;
  bool good = true;
  __syncthreads();  // readers of what lies there are done
  for (int q = 0; q < width; ++q) {
    double* row = rows + q % 2 * kFactorSide;
    if (r == q) row[c] = d;
    __syncthreads();  // the pivot's row is there; that of two pivots ago has been read
    const double pivot = row[q], inverse = 1.0 / pivot, across = row[r] * row[c];
    good = good && pivot > 0 && isfinite(pivot);
    if (r == q || c == q) {
      d = r == c ? -inverse : row[r == q ? c : r] * inverse;
    } else {
      d -= across * inverse;
    }
  }
  return good;
}

// The thread's element of a tile after the step: `pivot` is that of -D^-1. squares: two of 16 x 16, the
// second with every row rotated by its number, so that columns of it are read without bank conflict.
__device__ __forceinline__ double block_sweep_tile(const KernelArgs& a, const SweepStep& s,
                                                   const FactorTile& at, double pivot,
                                                   double* squares) {
  const int r = threadIdx.x / kFactorSide, c = threadIdx.x % kFactorSide, k = s.pivot;
  const auto rotated = [](int row, int column) {
    return kFactorTile + row * kFactorSide + (row + column) % kFactorSide;
  };
  if (at.row == k && at.column == k) return pivot;
  const double panel = s.load(a, at.row == k ? at.column : at.row, k);
  __syncthreads();  // readers of both squares are done
  squares[threadIdx.x] = pivot;
  squares[rotated(r, c)] = panel;
  __syncthreads();   // both are complete
  double moved = 0;  // of -X_iK D^-1
  for (int q = 0; q < kFactorSide; ++q)
    moved = fma(squares[rotated(r, q)], squares[q * kFactorSide + c], moved);
  if (at.row == k || at.column == k) return -moved;
  double value = s.load(a, at.row, at.column);
  const double second = s.load(a, at.column, k);
  __syncthreads();  // the products have been taken
  squares[threadIdx.x] = moved;
  squares[rotated(r, c)] = second;
  __syncthreads();  // both are complete
  for (int q = 0; q < kFactorSide; ++q)
    value = fma(squares[r * kFactorSide + q], squares[rotated(c, q)], value);
  return value;
}

__device__ __forceinline__ float* factor_inverse(const KernelArgs& a, int factor) {
  return reinterpret_cast<float*>(a.scratch + a.factors.inverses) +
         a.factors.factor[factor].inverse;
}

// After the last step: an element of -X^-1 to both of its places in the inverse, zero in the padding.
__device__ __forceinline__ void put_inverse(const KernelArgs& a, int factor, int i, int j,
                                            double value) {
  const FactorPlace& f = a.factors.factor[factor];
  const int side = f.blocks * kFactorSide;
  const float inverse = i < f.size && j < f.size ? static_cast<float>(-value) : 0.0f;
  float* to = factor_inverse(a, factor);
  to[i * side + j] = to[j * side + i] = inverse;
}

// One step on the block's tiles. Adds to `bad` what has no inverse.
__device__ __forceinline__ void block_sweep_step(const KernelArgs& a, const Block& b, int k,
                                                 double& bad) {
  const FactorLayout& all = a.factors;
  double* squares = reinterpret_cast<double*>(b.reduce);
  SweepStep s = {k % 2, k, -1, 0};
  double pivot = 0;
  for (int t = b.index; t < all.tiles; t += b.grid) {
    const FactorTile at = factor_tile(all, t);
    const FactorPlace& f = all.factor[at.factor];
    if (k >= f.blocks) continue;
    if (at.factor != s.factor) {
      s.factor = at.factor;
      s.shift = k == 0 ? factor_shift(a, at.factor) : 0.0;
      pivot = s.load(a, k, k);
      const int width = min(f.size - k * kFactorSide, kFactorSide);
      if (!block_sweep_pivots(pivot, width, squares + kFactorTile)) bad += 1;
    }
    const double value = block_sweep_tile(a, s, at, pivot, squares);
    int r = threadIdx.x / kFactorSide, c = threadIdx.x % kFactorSide;
    if (at.row == k && at.column != k) {  // X_Kj, of which X_jK was computed
      const int other = r;
      r = c, c = other;
    }
    tile_sums(a, 1 - s.list, t)[r * kFactorSide + c] = value;
    if (k + 1 < f.blocks || (at.row == at.column && r < c)) continue;
    put_inverse(a, at.factor, at.row * kFactorSide + r, at.column * kFactorSide + c, value);
    if (!isfinite(value)) bad += 1;
  }
}

// Inverses of all factors from the lists of parts. False where some factor has none. Closes with a
// grid barrier.
__device__ __forceinline__ bool block_invert_factors(const KernelArgs& a, const Block& b) {
  double bad = 0;
  for (int k = 0; k < a.factors.steps; ++k) {
    block_sweep_step(a, b, k, bad);
    if (k + 1 < a.factors.steps) grid_sync();  // the list that the next step reads is complete
  }
  const double all[1] = {block_sum(bad, reinterpret_cast<double*>(b.reduce))};
  publish(b, kRegionSearch + 1, all);
  grid_sync();  // the inverses are complete
  return collect(b, kRegionSearch + 1, 0) == 0;
}

}  // namespace
}  // namespace trpo_fast::cuda
