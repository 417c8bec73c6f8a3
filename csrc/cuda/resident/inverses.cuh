// (A + pi s I)^-1 and (G + s / pi I)^-1 of every map, by sweeps over blocks of 16 pivots: in fp64, in the
// whole grid at once, factors of any size. A sweep of the pivots K takes D = X_KK, in every tile
//   X_KK = -D^-1,   X_iK = X_iK D^-1,   X_ij = X_ij - X_iK D^-1 X_Kj,
// and leaves -X^-1 after the last. Each step reads one list of tiles and writes the other, so that one
// grid barrier lies between steps; a block inverts D for itself. Behind layers of 16 n outputs the constant
// input is a pivot of its own, which the first step takes along, since a step costs the same whatever its
// width. The pivots are those of a Cholesky factorisation: one that is not positive says that the matrix is
// not.
#pragma once
#include "cuda/resident/factors.cuh"

namespace trpo_fast::cuda {
namespace {

// What is added to the diagonal of a factor, by its pair's mean eigenvalues.
__device__ __forceinline__ double block_factor_shift(const KernelArgs& a, const Block& b,
                                                     int factor) {
  double mean[2];
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const FactorPlace& f = a.factors.factor[factor / 2 * 2 + side];
    double sum = 0;
    for (int d = threadIdx.x; d < f.size; d += kThreads) {
      const int block = d / kFactorSide, at = d % kFactorSide;
      sum += part_sum(a, a.factors.parts, f.first_tile + block * (block + 3) / 2,
                      at * kFactorSide + at);
    }
    mean[side] = sum / f.size;
  }
  block_reduce(mean, reinterpret_cast<double*>(b.reduce));
  const double floor = mean[0] * mean[1] * kDampingFloor, damping = a.damping;
  const double shift = sqrt(kDampingShare * (floor < damping ? damping : floor));
  const double pi = fmin(fmax(sqrt(mean[0] / mean[1]), 1 / kBalanceLimit), kBalanceLimit);
  return factor % 2 ? shift / pi : shift * pi;
}

__device__ __forceinline__ int own_row() { return int(threadIdx.x) / kFactorSide; }
__device__ __forceinline__ int own_column() { return int(threadIdx.x) % kFactorSide; }

// Where element [row, column] of tile (i, j) of a symmetric matrix is in a list, which has the lower
// triangle.
__device__ __forceinline__ int element_place(const FactorPlace& f, int i, int j, int row,
                                             int column) {
  const bool upper = i < j || (i == j && row < column);
  const int first = upper ? j : i, second = upper ? i : j;
  const int r = upper ? column : row, c = upper ? row : column;
  return (f.first_tile + first * (first + 1) / 2 + second) * kFactorTile + r * kFactorSide + c;
}

template <int kCount>
struct Elements {
  double x[kCount];
};

// The elements of the matrix before step k, all under way at once: for the first step the parts of the
// rows together.
template <int kCount>
__device__ __forceinline__ Elements<kCount> load_elements(const KernelArgs& a, int k,
                                                          const int (&place)[kCount]) {
  Elements<kCount> sum = {};
  each_loaded<2>(
      0, k == 0 ? a.factors.parts : 1, 1,
      [&](int part) {
        const double* from = tile_sums(a, k == 0 ? part_list(part) : k % 2, 0);
        Elements<kCount> found;
#pragma unroll
        for (int i = 0; i < kCount; ++i) found.x[i] = __ldcg(from + place[i]);
        return found;
      },
      [&](int, const Elements<kCount>& found) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) sum.x[i] += found.x[i];
      });
  return sum;
}

// What a thread reads for step k of a tile: its element of D, of the tile's panel X_iK (X_jK for a tile
// of the pivots' row), of the tile, and of X_jK.
struct SweepTile {
  double pivot, panel, value, second;
};

__device__ __forceinline__ SweepTile load_sweep(const KernelArgs& a, int k, const FactorTile& at) {
  const FactorPlace& f = a.factors.factor[at.factor];
  const int r = own_row(), c = own_column();
  const auto place = [&](int i, int j) { return element_place(f, i, j, r, c); };
  const int places[4] = {place(k, k), place(at.row == k ? at.column : at.row, k),
                         place(at.row, at.column), place(at.column, k)};
  const auto [x] = load_elements(a, k, places);
  return {x[0], x[1], x[2], x[3]};
}

// The first step's tile once the lone last pivot, where there is one, has been swept: in the row and the
// column of it, of which the tile's rows and columns are read. False if it is not positive.
__device__ __forceinline__ bool sweep_last(const KernelArgs& a, const FactorTile& at, double shift,
                                           SweepTile& t) {
  const FactorPlace& f = a.factors.factor[at.factor];
  if (f.pivots == f.size) return true;
  const int r = own_row(), c = own_column(), last = f.size - 1;
  const auto place = [&](int i, int row) {
    return element_place(f, last / kFactorSide, i, last % kFactorSide, row);
  };
  const int places[6] = {place(0, r),         place(0, c),         place(at.row, r),
                         place(at.column, r), place(at.column, c), place(f.blocks - 1, 0)};
  const auto [x] = load_elements(a, 0, places);
  const double pivot = x[5] + shift, inverse = 1.0 / pivot;
  const bool in_row = at.row * kFactorSide + r == last;
  const bool in_column = at.column * kFactorSide + c == last;
  const bool turned = at.column * kFactorSide + r == last;
  t.pivot -= x[0] * inverse * x[1];
  t.panel = in_row ? x[1] * inverse : t.panel - x[2] * inverse * x[1];
  t.second = turned ? x[1] * inverse : t.second - x[3] * inverse * x[1];
  if (in_row || in_column) {
    t.value = in_row && in_column ? -inverse : (in_row ? x[4] : x[2]) * inverse;
  } else {
    t.value -= x[2] * inverse * x[4];
  }
  return pivot > 0 && isfinite(pivot);
}

// The thread's element of D becomes that of -D^-1; `width` of the 16 pivots exist, and two are taken at a
// time. rows: [2, 2, 16] of shared memory. False where a pivot is not positive. Opens with a barrier.
__device__ __forceinline__ bool block_sweep_pivots(double& d, int width, double* rows) {
  const int r = own_row(), c = own_column();
  bool good = true;
  __syncthreads();  // readers of what lies there are done
#pragma unroll 1
  for (int q = 0; q < width; q += 2) {
    double *first = rows + q % 4 * kFactorSide, *second = first + kFactorSide;
    if ((r & ~1) == q) first[r % 2 * kFactorSide + c] = d;
    __syncthreads();  // the pivots' rows are there; those of two turns ago have been read
    const bool both = q + 1 < width;
    const double x = first[q], y = both ? second[q] : 0, z = both ? second[q + 1] : 1;
    const double area = fma(x, z, -(y * y)), inverse = 1.0 / area;
    good = good && x > 0 && area > 0 && isfinite(area);
    const double xx = z * inverse, xy = -y * inverse, zz = both ? x * inverse : 0;
    const double below = both ? second[c] : 0, beside = both ? second[r] : 0;
    const double moved[2] = {fma(xx, first[c], xy * below), fma(xy, first[c], zz * below)};
    const double turned[2] = {fma(xx, first[r], xy * beside), fma(xy, first[r], zz * beside)};
    const bool row = r == q || (both && r == q + 1), column = c == q || (both && c == q + 1);
    if (row && column) {
      d = r != c ? -xy : r == q ? -xx : -zz;
    } else if (row) {
      d = r == q ? moved[0] : moved[1];
    } else if (column) {
      d = c == q ? turned[0] : turned[1];
    } else {
      d -= fma(first[r], moved[0], beside * moved[1]);
    }
  }
  return good;
}

// squares: two of 16 x 16, the second with every row rotated by its number, so that columns of it are read
// without bank conflict.
__device__ __forceinline__ int rotated(int row, int column) {
  return kFactorTile + row * kFactorSide + (row + column) % kFactorSide;
}

__device__ __forceinline__ void block_put_squares(double* squares, double straight, double turned) {
  __syncthreads();  // readers of both squares are done
  squares[threadIdx.x] = straight;
  squares[rotated(own_row(), own_column())] = turned;
  __syncthreads();  // both are complete
}

// The thread's element of tile t after step k: `pivot` is that of -D^-1.
__device__ __forceinline__ double block_sweep_tile(const FactorTile& at, int k, double pivot,
                                                   const SweepTile& t, double* squares) {
  const int r = own_row(), c = own_column();
  if (at.row == k && at.column == k) return pivot;
  block_put_squares(squares, pivot, t.panel);
  double moved = 0;  // of -X_iK D^-1
#pragma unroll
  for (int q = 0; q < kFactorSide; ++q)
    moved = fma(squares[rotated(r, q)], squares[q * kFactorSide + c], moved);
  if (at.row == k || at.column == k) return -moved;
  block_put_squares(squares, moved, t.second);
  double value = t.value;
#pragma unroll
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
  int known = -1;  // the factor of which shift and pivot are
  double shift = 0, pivot = 0;
#pragma unroll 1
  for (int t = b.index; t < all.tiles; t += b.grid) {
    const FactorTile at = factor_tile(all, t);
    const FactorPlace& f = all.factor[at.factor];
    if (k * kFactorSide >= f.pivots) continue;
    SweepTile x = load_sweep(a, k, at);
    const bool other = at.factor != known;
    known = at.factor;
    if (k == 0) {
      if (other) shift = block_factor_shift(a, b, known);
      if (own_row() == own_column()) {
        x.pivot += shift;
        if (at.row == at.column) x.value += shift;
      }
      if (!sweep_last(a, at, shift, x)) bad += 1;
    }
    if (other) {
      pivot = x.pivot;
      const int width = min(f.pivots - k * kFactorSide, kFactorSide);
      if (!block_sweep_pivots(pivot, width, squares + kFactorTile)) bad += 1;
    }
    const double value = block_sweep_tile(at, k, pivot, x, squares);
    int r = own_row(), c = own_column();
    if (at.row == k && at.column != k) {  // X_Kj, of which X_jK was computed
      r = own_column();
      c = own_row();
    }
    tile_sums(a, 1 - k % 2, t)[r * kFactorSide + c] = value;
    if ((k + 1) * kFactorSide < f.pivots || (at.row == at.column && r < c)) continue;
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
