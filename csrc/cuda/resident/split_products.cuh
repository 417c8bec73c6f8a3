// Products of a tile of rows with a packed map on tensor cores, in split precision: three mma per
// 16 x 8 x 16, small ones first, summed in fp32 and scaled back once per product.
//
// A warp works on 16 rows by 8 kN columns. Which row, column and term of the sum a lane's registers
// stand for is free as long as both operands agree, so lanes load quads and are dealt the rows that
// keep every eight (or sixteen) of them on different banks: a stride is an odd number of quads.
#pragma once
#include "cuda/resident/split.cuh"

namespace trpo_fast::cuda {
namespace {

struct SplitProduct {
  const float* plane;     // [rows, depth]
  const uint32_t* words;  // [outputs, depth], or [depth, outputs] for the way back
  int stride_plane, stride_words;
  int depth;
  float up, down;  // of the plane's values; of the sums
};

// What one warp computes: sums of a 16 x 8 kN piece of a plane.
template <int kN>
struct Fragment {
  int row, column, width;
  float value[kN][4];

  template <class Store>  // store(row, column, value)
  __device__ __forceinline__ void each(Store store) const {
    const int group = lane_index() >> 2, pair = lane_index() & 3;
    const int r = row + (group >> 1) + 4 * (group & 1);
#pragma unroll
    for (int t = 0; t < kN; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int c = column + 8 * t + pair + 4 * (i & 1);
        if (c < width) store(r + 8 * (i >> 1), c, value[t][i]);
      }
  }
};

// Fragment += rows of the plane times rows of words. Terms 4 pair .. 4 pair + 3 of a step are a lane's.
template <class Half, int kN>
__device__ __forceinline__ void warp_accumulate(Fragment<kN>& f, const SplitProduct& p) {
  using Split = Split16<Half>;
  const int group = lane_index() >> 2, pair = lane_index() & 3;
  const int dealt = (group >> 1) + 4 * (group & 1), quads = ceil_div(p.depth, 4);
  const float* rows = on_chip(p.plane + (f.row + dealt) * p.stride_plane);
  const uint32_t* words[kN];
#pragma unroll
  for (int t = 0; t < kN; ++t)  // columns past the last compute what nobody stores
    words[t] = on_chip(p.words + min(f.column + 8 * t + dealt, f.width - 1) * p.stride_words);
  float sum[kN][4] = {};
#pragma unroll 1
  for (int first = 0; first < quads; first += 4) {
    const int q = first + pair;
    float4 x = make_float4(0, 0, 0, 0), y = x;
    if (q < quads) {
      x = load4(rows + 4 * q);
      y = load4(rows + 8 * p.stride_plane + 4 * q);
    }
    typename Split::A a;
    Split::split(x.x * p.up, x.y * p.up, &a.high[0], &a.low[0]);
    Split::split(y.x * p.up, y.y * p.up, &a.high[1], &a.low[1]);
    Split::split(x.z * p.up, x.w * p.up, &a.high[2], &a.low[2]);
    Split::split(y.z * p.up, y.w * p.up, &a.high[3], &a.low[3]);
    const int at = 4 * min(q, quads - 1);  // times zero where it is past the end
#pragma unroll
    for (int t = 0; t < kN; ++t) {
      const uint4 w = load4(words[t] + at);
      const typename Split::B b = {{low_halves(w.x, w.y), low_halves(w.z, w.w)},
                                   {high_halves(w.x, w.y), high_halves(w.z, w.w)}};
      Split::multiply(sum[t], a, b);
    }
  }
#pragma unroll
  for (int t = 0; t < kN; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) f.value[t][i] = fmaf(sum[t][i], p.down, f.value[t][i]);
}

// Calls finish(fragment) for every fragment of a plane [rows, width]; fill(fragment) computes it. The
// body is entered by whole warps.
template <int kN, class Fill, class Finish>
__device__ __forceinline__ void warp_fragments(int rows, int width, Fill fill, Finish finish) {
  const int bands = rows / 16, count = bands * ceil_div(width, 8 * kN);
#pragma unroll 1
  for (int i = warp_index(); i < count; i += kWarps) {
    Fragment<kN> f = {16 * (i % bands), 8 * kN * (i / bands), width, {}};
    fill(f);
    finish(f);
  }
}

// Wide fragments where they keep every warp busy: an operand loaded and split once serves four mma.
template <class Fill, class Finish>
__device__ __forceinline__ void block_fragments(int rows, int width, Fill fill, Finish finish) {
  if (width > 16 && rows / 16 * ceil_div(width, 32) >= kWarps) {
    warp_fragments<4>(rows, width, fill, finish);
  } else {
    warp_fragments<1>(rows, width, fill, finish);
  }
}

// The way back, 16 rows by 32 columns: sum[t][i] is column 4 (2 pair + i % 2) + t of row
// 2 (group % 4) + group / 4 + 8 (i / 2). Rows of the plane times columns of words.
template <class Half>
__device__ __forceinline__ void warp_accumulate_back(float (&sum)[4][4], const SplitProduct& p,
                                                     int row, int column, int width) {
  using Split = Split16<Half>;
  const int group = lane_index() >> 2, pair = lane_index() & 3;
  const float* rows = on_chip(p.plane + (row + 2 * (group & 3) + (group >> 2)) * p.stride_plane);
  // Columns past the last quad compute what nobody stores.
  const uint32_t* words = on_chip(p.words + min(column + 4 * group, (width - 1) & ~3));
#pragma unroll 1
  for (int first = 0; first < p.depth; first += 16) {
    typename Split::A a;
    uint4 w[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = first + 2 * pair + 8 * i;
      float2 x = make_float2(0, 0), y = x;
      if (k < p.depth) {  // what lies past the last output is not zero: log_std's
        x = load2(rows + k);
        y = load2(rows + 8 * p.stride_plane + k);
      }
      if (k + 1 >= p.depth) x.y = y.y = 0;
      Split::split(x.x * p.up, x.y * p.up, &a.high[2 * i], &a.low[2 * i]);
      Split::split(y.x * p.up, y.y * p.up, &a.high[2 * i + 1], &a.low[2 * i + 1]);
#pragma unroll
      for (int j = 0; j < 2; ++j)
        w[2 * i + j] = load4(words + min(k + j, p.depth - 1) * p.stride_words);
    }
    const auto multiply = [&](int t, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
      const typename Split::B b = {{low_halves(w0, w1), low_halves(w2, w3)},
                                   {high_halves(w0, w1), high_halves(w2, w3)}};
      Split::multiply(sum[t], a, b);
    };
    multiply(0, w[0].x, w[1].x, w[2].x, w[3].x);
    multiply(1, w[0].y, w[1].y, w[2].y, w[3].y);
    multiply(2, w[0].z, w[1].z, w[2].z, w[3].z);
    multiply(3, w[0].w, w[1].w, w[2].w, w[3].w);
  }
#pragma unroll
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[t][i] *= p.down;
}

}  // namespace
}  // namespace trpo_fast::cuda
