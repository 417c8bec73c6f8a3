// Stage vjp: deltas back through the net, and weight gradients summed over a tile's rows.
//
// The weight gradients of all maps form one list of register tiles, 8 outputs by one quad of
// inputs (the bias is the column of the constant input). Thread t owns tiles t, t + 256, ...; the
// first kSlots stay in registers over all tiles of rows, any further ones are added in global memory
// after every tile of rows.
#pragma once
#include "cuda/resident/activation.cuh"

namespace trpo_fast::cuda {
namespace {

// A packed map the other way round: patch of kM rows by a quad of inputs += delta rows times W.
template <int kM>
__device__ __forceinline__ void accumulate_back(float4 (&sum)[kM], const float* deltas, int stride,
                                                const float* map, int stride_map, int outputs) {
  const int row_step = kRowGroups * stride;
  int o = 0;
#pragma unroll 1
  for (; o + 4 <= outputs; o += 4) {
    float4 d[kM], w[4];
#pragma unroll
    for (int i = 0; i < kM; ++i) d[i] = load4(deltas + i * row_step + o);
#pragma unroll
    for (int j = 0; j < 4; ++j) w[j] = load4(map + (o + j) * stride_map);
#pragma unroll
    for (int i = 0; i < kM; ++i) {
      const float part[4] = {d[i].x, d[i].y, d[i].z, d[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum[i].x = fmaf(part[j], w[j].x, sum[i].x);
        sum[i].y = fmaf(part[j], w[j].y, sum[i].y);
        sum[i].z = fmaf(part[j], w[j].z, sum[i].z);
        sum[i].w = fmaf(part[j], w[j].w, sum[i].w);
      }
    }
  }
#pragma unroll 1
  for (; o < outputs; ++o) {
    const float4 w = load4(map + o * stride_map);
#pragma unroll
    for (int i = 0; i < kM; ++i) {
      const float d = deltas[i * row_step + o];
      sum[i] = make_float4(fmaf(d, w.x, sum[i].x), fmaf(d, w.y, sum[i].y), fmaf(d, w.z, sum[i].z),
                           fmaf(d, w.w, sum[i].w));
    }
  }
}

// delta_{l-1} = act'(h_{l-1}) * (W_l' delta_l), from the outputs down; overwrites the tangents.
// Closes with a barrier.
template <class V>
__device__ __forceinline__ void block_deltas(const Layout& l, const float* weights,
                                             const float* tile, float* work) {
  constexpr int kM = V::kM;
  const auto [row, first] = patch_place();
  for (int i = l.maps - 1; i > 0; --i) {
    const MapLayout &m = l.map[i], &below = l.map[i - 1];
    float* out = on_chip(work + below.tangent);
    const int stride = below.stride_tangent;
    for (int q = 4 * first; q < m.in; q += 4 * kThreads / kRowGroups) {
      float4 sum[kM] = {};
      accumulate_back<kM>(sum, on_chip(work + m.tangent + row * m.stride_tangent), m.stride_tangent,
                          packed_at<V>(weights + m.weights + q), m.stride_in, m.out);
      with_slope(l.activation, below, tile, [&](const float* kept, auto slope) {
#pragma unroll
        for (int k = 0; k < kM; ++k) {
          const int r = row + kRowGroups * k;
          const float4 y = load4(kept + r * below.stride_out + q);
          float4 delta = {slope(y.x) * sum[k].x, slope(y.y) * sum[k].y, slope(y.z) * sum[k].z,
                          slope(y.w) * sum[k].w};
          if (q + 1 >= m.in) delta.y = 0.0f;  // the constant and what follows it
          if (q + 2 >= m.in) delta.z = 0.0f;
          if (q + 3 >= m.in) delta.w = 0.0f;
          store4(out + r * stride + q, delta);
        }
      });
    }
    __syncthreads();  // deltas of this map's inputs are complete
  }
}

// Where register tile t lies.
struct TilePlace {
  const float* deltas;  // of its first output, row 0
  const float* inputs;  // of its quad, row 0
  int stride_deltas, stride_inputs, stride_map;
  int outputs;  // of the tile that exist, at most 8
  int packed;   // offset of its first output's quad
};

__device__ __forceinline__ TilePlace place_tile(const Layout& l, int t, const float* tile,
                                                const float* work) {
  int i = 0;
  while (i + 1 < l.maps && t >= l.map[i + 1].first_tile) ++i;
  const MapLayout& m = l.map[i];
  // Rows of tiles are taken in twos, a column at a time, so that pairs of lanes read one address, as
  // in patch_place.
  const int local = t - m.first_tile, two_rows = 2 * m.tile_columns;
  const int above = local / two_rows * 2, place = local % two_rows;
  const bool both = (above + 1) * kTileOutputs < m.out;
  const int o = (above + (both ? place & 1 : 0)) * kTileOutputs;
  const int q = (both ? place >> 1 : place) * kTileInputs;
  return {work + m.tangent + o,
          tile + m.input + q,
          m.stride_tangent,
          m.stride_in,
          m.stride_in,
          min(m.out - o, kTileOutputs),
          m.weights + o * m.stride_in + q};
}

__device__ __forceinline__ void fused4(float (&sum)[4], float d, float4 h) {
  sum[0] = fmaf(d, h.x, sum[0]);
  sum[1] = fmaf(d, h.y, sum[1]);
  sum[2] = fmaf(d, h.z, sum[2]);
  sum[3] = fmaf(d, h.w, sum[3]);
}

using TileSum = float[kTileOutputs][kTileInputs];

__device__ __forceinline__ void accumulate_tile(TileSum& sum, const TilePlace& p, int rows) {
  const bool wide = p.outputs > 4;  // otherwise the second quad may lie past the plane
#pragma unroll 2
  for (int r = 0; r < rows; ++r) {
    const float4 h = load4(on_chip(p.inputs) + r * p.stride_inputs);
    const float* d = on_chip(p.deltas) + r * p.stride_deltas;
    const float4 low = load4(d), high = wide ? load4(d + 4) : make_float4(0, 0, 0, 0);
    fused4(sum[0], low.x, h);
    fused4(sum[1], low.y, h);
    fused4(sum[2], low.z, h);
    fused4(sum[3], low.w, h);
    fused4(sum[4], high.x, h);
    fused4(sum[5], high.y, h);
    fused4(sum[6], high.z, h);
    fused4(sum[7], high.w, h);
  }
}

// put(packed offset, quad) for every output of a tile that exists.
template <class Put>
__device__ __forceinline__ void each_tile_row(const TileSum& sum, const TilePlace& p, Put put) {
#pragma unroll
  for (int o = 0; o < kTileOutputs; ++o)
    if (o < p.outputs)
      put(p.packed + o * p.stride_map, make_float4(sum[o][0], sum[o][1], sum[o][2], sum[o][3]));
}

// A thread's share of the weight gradients while the block goes through its tiles of rows.
template <int kSlots>
struct Gradients {
  TileSum sum[kSlots];
  float log_std;  // threads from the end of the block: one column each
  bool first;     // no tile of rows has been added yet

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int s = 0; s < kSlots; ++s)
#pragma unroll
      for (int o = 0; o < kTileOutputs; ++o)
#pragma unroll
        for (int k = 0; k < kTileInputs; ++k) sum[s][o][k] = 0.0f;
    log_std = 0.0f;
    first = true;
  }
};

// Where a block's weight gradients end up: its own partial vector or, by atomics, a sum of all blocks.
struct Destination {
  float* partial;
  float* sum;  // null: partial

  __device__ __forceinline__ void put(int at, float4 value) const {
    if (!sum) return store4(partial + at, value);
    atomicAdd(sum + at, value.x);
    atomicAdd(sum + at + 1, value.y);
    atomicAdd(sum + at + 2, value.z);
    atomicAdd(sum + at + 3, value.w);
  }
  // As put, on top of what the same thread put there, or on nothing.
  __device__ __forceinline__ void add(int at, float4 value, bool first) const {
    const float4 old = sum || first ? make_float4(0, 0, 0, 0) : load4(partial + at);
    put(at, make_float4(old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w));
  }
};

__device__ __forceinline__ float column_sum(const float* deltas, int stride, int rows) {
  const float* column = on_chip(deltas);
  float sum = 0;
#pragma unroll 4
  for (int r = 0; r < rows; ++r) sum += column[r * stride];
  return sum;
}

// log_std's columns of the last plane: threads from the end of the block take one each.
__device__ __forceinline__ void add_log_std(const Layout& l, const float* work, int rows,
                                            float& sum) {
  const int column = kThreads - 1 - threadIdx.x;
  if (l.log_std < 0 || column >= l.actions) return;
  const MapLayout& m = l.map[l.maps - 1];
  sum += column_sum(work + m.tangent + l.actions + column, m.stride_tangent, rows);
}

__device__ __forceinline__ void put_log_std(const Layout& l, float sum, const Destination& to) {
  const int column = kThreads - 1 - threadIdx.x;
  if (l.log_std < 0 || column >= padded(l.actions)) return;
  if (to.sum) {
    atomicAdd(to.sum + l.log_std + column, sum);
  } else {
    to.partial[l.log_std + column] = sum;
  }
}

// Adds delta_l' h_{l-1} of every map over the first `rows` rows of a tile. No barrier: whoever
// overwrites the planes next opens with one.
template <int kSlots>
__device__ __forceinline__ void block_weight_gradients(const Layout& l, const float* tile,
                                                       const float* work, int rows,
                                                       const Destination& to,
                                                       Gradients<kSlots>& g) {
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int t = threadIdx.x + s * kThreads;
    if (t < l.tiles) accumulate_tile(g.sum[s], place_tile(l, t, tile, work), rows);
  }
  for (int t = threadIdx.x + kSlots * kThreads; t < l.tiles; t += kThreads) {
    const TilePlace place = place_tile(l, t, tile, work);
    TileSum sum = {};
    accumulate_tile(sum, place, rows);
    each_tile_row(sum, place, [&](int at, float4 value) { to.add(at, value, g.first); });
  }
  add_log_std(l, work, rows, g.log_std);
  g.first = false;
}

// What the thread's registers hold goes out; overflow tiles of a block without rows are zeros.
template <int kSlots>
__device__ __forceinline__ void block_put_gradients(const Layout& l, const Gradients<kSlots>& g,
                                                    const Destination& to) {
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int t = threadIdx.x + s * kThreads;
    if (t < l.tiles)
      each_tile_row(g.sum[s], place_tile(l, t, nullptr, nullptr),
                    [&](int at, float4 value) { to.put(at, value); });
  }
  for (int t = threadIdx.x + kSlots * kThreads; g.first && t < l.tiles; t += kThreads) {
    const TileSum zeros = {};
    each_tile_row(zeros, place_tile(l, t, nullptr, nullptr),
                  [&](int at, float4 value) { to.put(at, value); });
  }
  put_log_std(l, g.log_std, to);
}

}  // namespace
}  // namespace trpo_fast::cuda
