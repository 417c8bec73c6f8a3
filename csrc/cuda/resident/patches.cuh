// How a block's threads share a plane: patches of 4 rows by 4 columns.
//
// Over a plane of 16 M rows there may be fewer patches than threads (16 or 32 rows, or few columns):
// then 4, 8 or 16 lanes share one, each with every n-th quad of the sum over k. A patch of 4 x 4 takes 8
// quads from shared memory for 64 multiplications, one of 1 x 4 would take 5 for 16.
#pragma once
#include "cuda/prims/copy.cuh"
#include "cuda/prims/reduce.cuh"
#include "cuda/resident/config.h"

namespace trpo_fast::cuda {
namespace {

// Up to four values side by side in a row, of which `count` exist.
struct Quad {
  float4 value;
  int count;
};

__device__ __forceinline__ void put(float* to, float value) { *to = value; }
__device__ __forceinline__ void put(float* to, const Quad& quad) {
  if (quad.count >= 4) return store4(to, quad.value);
  if (quad.count > 0) to[0] = quad.value.x;
  if (quad.count > 1) to[1] = quad.value.y;
  if (quad.count > 2) to[2] = quad.value.z;
}

// Up to four values of a row, `step` columns apart; `left` columns remain from the first on.
struct SpreadQuad {
  float4 value;
  int step, left;
};

__device__ __forceinline__ void put(float* to, const SpreadQuad& quad) {
  if (quad.left > 0) to[0] = quad.value.x;
  if (quad.left > quad.step) to[quad.step] = quad.value.y;
  if (quad.left > 2 * quad.step) to[2 * quad.step] = quad.value.z;
  if (quad.left > 3 * quad.step) to[3 * quad.step] = quad.value.w;
}

// value times slope(what `kept` holds there).
template <class Slope>
__device__ __forceinline__ float sloped(float value, const float* kept, Slope slope) {
  return slope(kept[0]) * value;
}
template <class Slope>
__device__ __forceinline__ Quad sloped(const Quad& quad, const float* kept, Slope slope) {
  const float4 y = load4(kept), x = quad.value;
  return {{slope(y.x) * x.x, slope(y.y) * x.y, slope(y.z) * x.z, slope(y.w) * x.w}, quad.count};
}

// 4 x 4 outputs, rows row + row_step i and columns column + column_step j: of one thread, or its part
// of them where `lanes` of a warp share the sum over k.
struct Patch {
  int row, row_step, column, column_step, width;
  int lane, lanes;
  float value[4][4];

  template <class Store>  // store(row, column, value)
  __device__ __forceinline__ void each(Store store) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (column + j * column_step < width)
          store(row + row_step * i, column + j * column_step, value[i][j]);
  }

  template <class Store>  // store(row, column, four values)
  __device__ __forceinline__ void each_quad(Store store) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 four = make_float4(value[i][0], value[i][1], value[i][2], value[i][3]);
      store(row + row_step * i, column, SpreadQuad{four, column_step, width - column});
    }
  }
};

// One row of a patch that lanes share, in the first four of them.
struct PatchRow {
  int row, column;
  Quad quad;
  bool mine;

  template <class Store>  // store(row, column, quad)
  __device__ __forceinline__ void each(Store store) const {
    if (mine) store(row, column, quad);
  }
  template <class Store>
  __device__ __forceinline__ void each_quad(Store store) const {
    each(store);
  }
};

// Where the lanes of a warp are: 2 x (16 / lanes) patches of neighbours. Lanes n and n ^ 1 want the
// same columns, n and n ^ 2 (unless 16 share a patch) the same rows: shared memory serves 16-byte loads
// twice as fast when all such pairs read one address. Rows four apart lie on other banks.
struct PatchLane {
  int row, column, part;  // patches from the warp's first, and which part of the sum
};
__device__ __forceinline__ PatchLane patch_lane(int lanes) {
  const int lane = lane_index(), pair = lane >> 1 & 1, half = lane >> 4;
  const int part = lane >> 2 & 3;
  if (lanes == 4) return {lane & 1, pair | half << 1, part};
  if (lanes == 8) return {lane & 1, pair, part | half << 2};
  return {lane & 1, 0, part | half << 2 | pair << 3};
}

// The sums of a patch over its lanes; part n ends up with row n % 4.
__device__ __forceinline__ Quad sum_of_lanes(const Patch& p) {
  const bool second = p.lane & 2, odd = p.lane & 1;
  float pair[2][4], one[4];
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float away = second ? p.value[i][j] : p.value[i + 2][j];
      pair[i][j] = (second ? p.value[i + 2][j] : p.value[i][j]) + lane_swap(away, 8);
    }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float away = odd ? pair[0][j] : pair[1][j];
    one[j] = (odd ? pair[1][j] : pair[0][j]) + lane_swap(away, 4);
  }
  if (p.lanes > 4)
#pragma unroll
    for (int j = 0; j < 4; ++j) one[j] += lane_swap(one[j], 16);
  if (p.lanes > 8)
#pragma unroll
    for (int j = 0; j < 4; ++j) one[j] += lane_swap(one[j], 2);
  return {{one[0], one[1], one[2], one[3]}, p.width - p.column};
}

// The first row and column of a thread's own patches. Of a warp's 4 rows by 8 columns, lanes n and n ^ 1
// share a column, n and n ^ 2 a row, for the sake of 16-byte loads; rows are two apart, so that 4 rows of
// 8 neighbouring columns cover all 32 banks once.
struct PatchPlace {
  int row, column;
};
__device__ __forceinline__ PatchPlace patch_place() {
  const int lane = lane_index(), warp = warp_index();
  const int row = (lane & 1) | (lane >> 1 & 2), column = (lane >> 1 & 1) | (lane >> 2 & 6);
  return {(warp & 1) + (warp & 2) * 4 + 2 * row, (warp >> 2) * 8 + column};
}

// Calls body(patch) for the patches of a plane [16 kM, width] that lanes share, all lanes of a warp
// together; patches past the last column are computed once more, and `exists` is false.
template <int kM, class Body>
__device__ __forceinline__ void each_shared_patch(int width, Body body) {
  constexpr unsigned kPairs = 2 * kM;  // of rows of patches
  const int groups = ceil_div(width, 4);
  const int shift = groups * kM <= 4 ? 0 : groups * kM <= 8 ? 1 : 2;  // 1, 2, 4 columns of patches
  const int lanes = 16 >> shift;
  const auto [row, column, part] = patch_lane(lanes);
  const unsigned pieces = kPairs * ((groups + (1 << shift) - 1) >> shift);
#pragma unroll 1
  for (unsigned piece = warp_index(); piece < pieces; piece += kWarps) {
    const int group = static_cast<int>(piece / kPairs << shift) + column;
    const int first_row = static_cast<int>(piece % kPairs) * 8 + 4 * row;
    Patch patch = {first_row, 1, 4 * min(group, groups - 1), 1, width, part, lanes, {}};
    body(patch, group < groups);
  }
}

// Calls finish(outputs) for all of a plane [16 kM, width]; fill(patch) computes a patch, or a lane's
// part of one.
template <int kM, class Fill, class Finish>
__device__ __forceinline__ void block_patches(int width, Fill fill, Finish finish) {
  static_assert(kM == 1 || kM == 2 || kM == 4);
  if constexpr (kM == 4) {
    const int groups = ceil_div(width, 4);
    if (groups > 4) {
      const auto [row, first] = patch_place();
      for (int column = first; column < groups; column += kThreads / kRowGroups) {
        Patch patch = {row, kRowGroups, column, groups, width, 0, 1, {}};
        fill(patch);
        finish(patch);
      }
      return;
    }
  }
  each_shared_patch<kM>(width, [&](Patch& patch, bool exists) {
    fill(patch);
    const Quad quad = sum_of_lanes(patch);
    finish(PatchRow{patch.row + (patch.lane & 3), patch.column, quad, exists && patch.lane < 4});
  });
}

}  // namespace
}  // namespace trpo_fast::cuda
