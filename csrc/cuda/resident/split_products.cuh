// Products of a tile of rows with a packed map on tensor cores, in split precision: three mma per
// 16 x 8 x 16. Tensor cores cut off below the last bit of the largest term, so the products of high
// halves start at zero in every step, and rounded fp32 additions sum up the steps. What is cut off from
// the small products, one with a low half, is 2^-11 of that: they are summed in the tensor cores.
//
// Operands come by ldmatrix, as halves: a plane's high and low ones by four matrices each, those of 8
// columns of the map (both halves, 16 terms) by four together.
#pragma once
#include "cuda/resident/split_packed.cuh"

namespace trpo_fast::cuda {
namespace {

// Rows of a plane times rows of a map, or times its columns on the way back.
struct SplitProduct {
  Halves plane, map;
  int steps;              // of 16 terms
  int map_rows;           // that exist
  const uint32_t* marks;  // of the plane
  float scale;            // of the map's values, downwards, times what the sums are wanted in
};

// What one warp computes: sums of a piece of 16 rows by 8 kN columns, columns past `width` of no use.
template <int kN>
struct Fragment {
  int row, column, width;
  float value[kN][4];  // rows group and group + 8, columns 2 pair and 2 pair + 1 of each tile

  // use(tile number t, its first column) for tiles that have columns of use.
  template <class Use>
  __device__ __forceinline__ void each_tile(Use use) const {
#pragma unroll
    for (int t = 0; t < kN; ++t)
      if (kN == 1 || column + 8 * t < width) use(t, column + 8 * t);
  }
  __device__ __forceinline__ int first_row() const { return row + (lane_index() >> 2); }
};

// One step of 16 terms: a piece of the plane, and of the map's tiles of 8 columns.
template <class Half, int kN>
struct SplitStep {
  typename Split16<Half>::A a;
  uint32_t b[kN][4];  // high, high, low, low: terms 0-7 and 8-15 of each
};

// sum += the step's products of high halves, small += those with a low half. A single tile keeps two
// chains of small products, which would otherwise wait for each other.
template <class Half, int kN>
struct SplitSum {
  static constexpr int kChains = kN == 1 ? 2 : 1;
  float sum[kN][4] = {}, small[kChains][kN][4] = {};

  __device__ __forceinline__ void add(const SplitStep<Half, kN>& s) {
    float large[kN][4] = {};
    uint32_t high[kN][2], low[kN][2];
#pragma unroll
    for (int t = 0; t < kN; ++t) {
      high[t][0] = s.b[t][0], high[t][1] = s.b[t][1];
      low[t][0] = s.b[t][2], low[t][1] = s.b[t][3];
    }
#pragma unroll
    for (int t = 0; t < kN; ++t) Half::product(large[t], s.a.high, high[t]);
#pragma unroll
    for (int t = 0; t < kN; ++t) Half::product(small[0][t], s.a.low, high[t]);
#pragma unroll
    for (int t = 0; t < kN; ++t) Half::product(small[kChains - 1][t], s.a.high, low[t]);
#pragma unroll
    for (int t = 0; t < kN; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[t][i] += large[t][i];
  }
  __device__ __forceinline__ float total(int t, int i) const {
    const float rest = kChains == 2 ? small[0][t][i] + small[1][t][i] : small[0][t][i];
    return sum[t][i] + rest;
  }
};

// Fragment += a product. Every step's operands are asked for before the last step's are multiplied.
template <class Half, bool kBack, int kN>
__device__ __forceinline__ void warp_accumulate(Fragment<kN>& f, const SplitProduct& p) {
  const int lane = lane_index();
  const SharedRow high = shared_row(p.plane.at) + 16 * (f.row + (lane & 15)) * p.plane.chunks;
  const SharedRow low = high + 4 * p.plane.low;
  const int row_turn = chunk_turn(lane, p.plane.chunks), row_half = lane >> 4;
  const SharedRow map = shared_row(p.map.at) + (lane >> 4) * 4 * p.map.low;
  const int map_turn = chunk_turn(lane, p.map.chunks), map_half = lane >> 3 & 1;
  SharedRow tile[kN];  // forward: where the rows of each tile's columns begin
#pragma unroll
  for (int t = 0; t < kN; ++t) {
    const int first = min(f.column + 8 * t, (p.map_rows - 1) & ~7);
    tile[t] = map + (kBack ? 0 : 16 * (first + (lane & 7)) * p.map.chunks);
  }
  const auto load = [&](int step) {
    SplitStep<Half, kN> s;
    const int x = 16 * ((2 * step + row_half) ^ row_turn);
    ldmatrix<4, false>(s.a.high, high + x);
    ldmatrix<4, false>(s.a.low, low + x);
    if constexpr (kBack) {
      // Rows past the last multiply zeros: any other row serves.
      const int row = min(16 * step + (lane & 15), p.map_rows - 1);
      const int turn = chunk_turn(row, p.map.chunks), first = f.column >> 3;
      const SharedRow w = map + 16 * row * p.map.chunks;
#pragma unroll
      for (int t = 0; t < kN; ++t)
        ldmatrix<4, true>(s.b[t], w + 16 * (min(first + t, p.map.chunks - 1) ^ turn));
    } else {
      const int at = 16 * ((2 * step + map_half) ^ map_turn);
#pragma unroll
      for (int t = 0; t < kN; ++t) ldmatrix<4, false>(s.b[t], tile[t] + at);
    }
    return s;
  };
  const float scale = p.scale * down_of(band_exponent(p.marks, f.row / kBandRows));
  SplitSum<Half, kN> sums;
  SplitStep<Half, kN> now = load(0);
#pragma unroll 2
  for (int step = 1; step < p.steps; ++step) {
    const SplitStep<Half, kN> next = load(step);
    sums.add(now);
    now = next;
  }
  sums.add(now);
#pragma unroll
  for (int t = 0; t < kN; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) f.value[t][i] = fmaf(sums.total(t, i), scale, f.value[t][i]);
}

// Calls finish(fragment) for every fragment of a plane [rows, width]; fill(fragment) computes it. The
// body is entered by whole warps.
template <int kN, class Fill, class Finish>
__device__ __forceinline__ void warp_fragments(int rows, int width, Fill fill, Finish finish) {
  const int bands = rows / kBandRows, count = bands * ceil_div(width, 8 * kN);
  const int shift = bands >> 1;  // bands is 1, 2 or 4
#pragma unroll 1
  for (int i = warp_index(); i < count; i += kWarps) {
    Fragment<kN> f = {kBandRows * (i & (bands - 1)), 8 * kN * (i >> shift), width, {}};
    fill(f);
    finish(f);
  }
}

// Wide fragments where they keep every warp busy: an operand loaded once serves four mma.
template <class Fill, class Finish>
__device__ __forceinline__ void block_fragments(int rows, int width, Fill fill, Finish finish) {
  if (width > 16 && rows / kBandRows * ceil_div(width, 32) >= kWarps) {
    warp_fragments<4>(rows, width, fill, finish);
  } else {
    warp_fragments<1>(rows, width, fill, finish);
  }
}

// ---- what the stages begin and end a product with

__device__ __forceinline__ int map_peak_exponent(const Words& by, int i) {
  return static_cast<int>(on_chip(by.marks)[i * kMapMarks + kWarps + 1]);
}

// A plane of map i's inputs, or of its outputs' deltas on the way back, times the map, times `up`.
__device__ __forceinline__ SplitProduct split_product(const MapLayout& m, int i,
                                                      const Halves& plane, const uint32_t* marks,
                                                      const Words& by, float up) {
  const float scale = up * down_of(band_exponent(by.marks + i * kMapMarks, 0));
  return {plane, map_halves(m, by.words), plane.chunks / 2, m.out, marks, scale};
}

// A bound of that product.
__device__ __forceinline__ int split_bound(const Words& by, int i, const uint32_t* marks,
                                           int terms) {
  return product_exponent(map_peak_exponent(by, i), peak_exponent(marks), terms);
}

// Sums begin at the biases that the halves have no room for, times `up`; elsewhere at zero.
template <int kN>
__device__ __forceinline__ void warp_begin(Fragment<kN>& f, const MapLayout& m, const Words& by,
                                           float up) {
  const float* bias = on_chip(reinterpret_cast<const float*>(by.words) + m.bias);
#pragma unroll
  for (int t = 0; t < kN; ++t) {
    const float2 x = load2(bias + f.column + 8 * t + 2 * (lane_index() & 3));
    f.value[t][0] = f.value[t][2] = up * x.x;
    f.value[t][1] = f.value[t][3] = up * x.y;
  }
}

// Floats of a fragment to the last plane.
template <int kN>
__device__ __forceinline__ void warp_put_floats(const Fragment<kN>& f, float* plane, int stride,
                                                int width) {
  const int pair = 2 * (lane_index() & 3);
  float* to = on_chip(plane + f.first_row() * stride);
  f.each_tile([&](int t, int column) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int c = column + pair + (i & 1);
      if (c < width) to[(i & 2) * 4 * stride + c] = f.value[t][i];
    }
  });
}

}  // namespace
}  // namespace trpo_fast::cuda
