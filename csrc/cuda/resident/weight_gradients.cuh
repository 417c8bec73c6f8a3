// Stage vjp: weight gradients, summed over a tile's rows.
//
// The weight gradients of all maps form one list of register tiles, 8 outputs by one quad of
// inputs (the bias is the column of the constant input; the last map's, where it would have a quad of
// its own, is a sum over columns). Thread t owns tiles t, t + 256, ...; the first kSlots stay in registers
// over all tiles of rows, any further ones are added in global memory after every tile of rows. Over
// 64 rows of a net of up to 256 tiles two lanes share two tiles, each with every other row, so that all
// warps have work.
#pragma once
#include "cuda/resident/stage.cuh"

namespace trpo_fast::cuda {
namespace {

__device__ __forceinline__ void fused4(float (&sum)[4], float d, float4 h) {
  sum[0] = fmaf(d, h.x, sum[0]);
  sum[1] = fmaf(d, h.y, sum[1]);
  sum[2] = fmaf(d, h.z, sum[2]);
  sum[3] = fmaf(d, h.w, sum[3]);
}

// Where register tile t lies.
struct TilePlace {
  int deltas;  // offset in the work planes: its first output, row 0
  int inputs;  // offset in a tile: its quad, row 0
  int stride_deltas, stride_inputs;
  int outputs;  // of the tile that exist, at most 8
  int packed;   // offset of its first output's quad
};

__device__ __forceinline__ TilePlace place_tile(const Layout& l, int t) {
  int i = 0;
#pragma unroll
  for (int next = 1; next < kMaxMaps; ++next) i += t >= l.map[next].first_tile;
  const MapLayout& m = l.map[i];
  // Rows of tiles are taken in twos, a column at a time, so that pairs of lanes read one address, as
  // in patch_place.
  const int local = t - m.first_tile, twos = two_rows_of(m, local);
  const int above = 2 * twos, place = local - 2 * m.tile_columns * twos;
  const bool both = (above + 1) * kTileOutputs < m.out;
  const int o = (above + (both ? place & 1 : 0)) * kTileOutputs;
  const int q = (both ? place >> 1 : place) * kTileInputs;
  return {m.tangent + o,
          m.input + q,
          m.stride_tangent,
          m.stride_in,
          min(m.out - o, kTileOutputs),
          m.weights + o * m.stride_in + q};
}

using TileSum = float[kTileOutputs][kTileInputs];

// sum += delta' h over rows first, first + step, ... Outputs that do not exist add up what nobody reads.
__device__ __forceinline__ void accumulate_tile(TileSum& sum, const TilePlace& p, const float* tile,
                                                const float* work, int first, int step, int rows) {
  const float* h = on_chip(tile + p.inputs);
  const float* d = on_chip(work + p.deltas);
#pragma unroll 4
  for (int r = first; r < rows; r += step) {
    const float4 x = load4(h + r * p.stride_inputs);
    const float4 low = load4(d + r * p.stride_deltas), high = load4(d + r * p.stride_deltas + 4);
    fused4(sum[0], low.x, x);
    fused4(sum[1], low.y, x);
    fused4(sum[2], low.z, x);
    fused4(sum[3], low.w, x);
    fused4(sum[4], high.x, x);
    fused4(sum[5], high.y, x);
    fused4(sum[6], high.z, x);
    fused4(sum[7], high.w, x);
  }
}

// put(packed offset, quad) for every output of a tile that exists.
template <class Put>
__device__ __forceinline__ void each_tile_row(const TileSum& sum, const TilePlace& p, Put put) {
#pragma unroll
  for (int o = 0; o < kTileOutputs; ++o)
    if (o < p.outputs)
      put(p.packed + o * p.stride_inputs, make_float4(sum[o][0], sum[o][1], sum[o][2], sum[o][3]));
}

constexpr int kRowLanes = 16;  // lanes n and n ^ 16 share a tile, each with every other row

// The same where two lanes have a part of the sum each: one brings the first four outputs together, the
// other the rest. All lanes of a warp call it.
template <class Put>
__device__ __forceinline__ void each_shared_row(const TileSum& sum, const TilePlace& p, bool exists,
                                                Put put) {
  const bool second = lane_index() & kRowLanes;
#pragma unroll
  for (int o = 0; o < 4; ++o) {
    float x[4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
      x[k] = (second ? sum[o + 4][k] : sum[o][k]) +
             lane_swap(second ? sum[o][k] : sum[o + 4][k], kRowLanes);
    const int output = second ? o + 4 : o;
    if (exists && output < p.outputs)
      put(p.packed + output * p.stride_inputs, make_float4(x[0], x[1], x[2], x[3]));
  }
}

// A thread's share of the weight gradients while the block goes through its tiles of rows.
template <class V>
struct Gradients {
  // Two lanes have two tiles: over 64 rows that leaves no warp idle, over 16 bringing the sums together
  // costs as much (predicted).
  static constexpr bool kShared = V::kSlots == 1 && V::kM == 4;
  static constexpr int kHeld = kShared ? 2 : V::kSlots;
  static constexpr bool kPlaced = V::kSlots == 1;  // nets of up to 256 tiles, each in registers

  TileSum sum[kHeld];
  TilePlace place[kHeld];  // if kPlaced, otherwise found again where it is wanted
  float column;            // of the last work plane, see Columns
  bool first;              // no tile of rows has been added yet

  __device__ __forceinline__ void begin(const Layout& l) {
    if constexpr (kPlaced)
#pragma unroll
      for (int s = 0; s < kHeld; ++s) place[s] = place_tile(l, min(tile(s), l.tiles - 1));
#pragma unroll
    for (int s = 0; s < kHeld; ++s)
#pragma unroll
      for (int o = 0; o < kTileOutputs; ++o)
#pragma unroll
        for (int k = 0; k < kTileInputs; ++k) sum[s][o][k] = 0.0f;
    column = 0.0f;
    first = true;
  }
  // The register tile in a slot; there may be none with that number.
  __device__ static __forceinline__ int tile(int slot) {
    if (!kShared) return threadIdx.x + slot * kThreads;
    return (warp_index() + slot * kWarps) * kRowLanes + (lane_index() & (kRowLanes - 1));
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

// Columns [first, last) of the last work plane are added up, by threads from the end of the block: the
// last map's bias where no register tile covers it, and log_std.
struct Columns {
  int first, last;
};
__device__ __forceinline__ Columns log_std_columns(const Layout& l) {
  return {l.outputs, l.log_std >= 0 ? 2 * l.outputs : l.outputs};
}
__device__ __forceinline__ Columns summed_columns(const Layout& l) {
  return {l.bias_apart ? 0 : l.outputs, log_std_columns(l).last};
}

__device__ __forceinline__ void add_column(const Layout& l, const Columns& columns,
                                           const float* work, int rows, float& sum) {
  const int column = columns.first + kThreads - 1 - threadIdx.x;
  if (column >= columns.last) return;
  const MapLayout& m = l.map[l.maps - 1];
  sum += column_sum(work + m.tangent + column, m.stride_tangent, rows);
}

// With the padding that belongs to it.
__device__ __forceinline__ void put_column(const Layout& l, const Columns& columns, float sum,
                                           const Destination& to) {
  const int column = columns.first + kThreads - 1 - threadIdx.x;
  const MapLayout& m = l.map[l.maps - 1];
  if (column < l.outputs) {
    const int row = m.weights + column * m.stride_in;
    for (int k = m.in; k < m.stride_in; k += 4)
      to.put(row + k, make_float4(k == m.in ? sum : 0.0f, 0, 0, 0));
  } else if (l.log_std >= 0 && column < l.outputs + padded(l.actions)) {
    const int at = l.log_std + column - l.outputs;
    if (to.sum) {
      atomicAdd(to.sum + at, sum);
    } else {
      to.partial[at] = sum;
    }
  }
}

// Of split precision, whose blocks and sums have all of the bias.
__device__ __forceinline__ void add_log_std(const Layout& l, const float* work, int rows,
                                            float& sum) {
  add_column(l, log_std_columns(l), work, rows, sum);
}
__device__ __forceinline__ void put_log_std(const Layout& l, float sum, const Destination& to) {
  put_column(l, log_std_columns(l), sum, to);
}

// Adds delta_l' h_{l-1} of every map over the first `rows` rows of a tile. No barrier: whoever
// overwrites the planes next opens with one.
template <class V>
__device__ __forceinline__ void block_weight_gradients(const Layout& l, const float* tile,
                                                       const float* work, int rows,
                                                       const Destination& to, Gradients<V>& g) {
  using Own = Gradients<V>;
  const int first = Own::kShared ? lane_index() / kRowLanes : 0, step = Own::kShared ? 2 : 1;
#pragma unroll
  for (int s = 0; s < Own::kHeld; ++s) {
    const int t = Own::tile(s);
    if (t >= l.tiles) continue;
    const TilePlace place = Own::kPlaced ? g.place[s] : place_tile(l, t);
    accumulate_tile(g.sum[s], place, tile, work, first, step, rows);
  }
  if constexpr (!Own::kPlaced) {
    for (int t = Own::tile(Own::kHeld); t < l.tiles; t += kThreads) {
      const TilePlace place = place_tile(l, t);
      TileSum sum = {};
      accumulate_tile(sum, place, tile, work, first, step, rows);
      each_tile_row(sum, place, [&](int at, float4 value) { to.add(at, value, g.first); });
    }
  }
  add_column(l, summed_columns(l), work, rows, g.column);
  g.first = false;
}

// What the thread's registers hold goes out; overflow tiles of a block without rows are zeros.
template <class V>
__device__ __forceinline__ void block_put_gradients(const Layout& l, const Gradients<V>& g,
                                                    const Destination& to) {
  using Own = Gradients<V>;
  const auto put_held = [&](auto put) {  // one branch for all quads
#pragma unroll
    for (int s = 0; s < Own::kHeld; ++s) {
      const int t = Own::tile(s);
      if constexpr (Own::kShared) {
        if (t - (t & (kRowLanes - 1)) < l.tiles)
          each_shared_row(g.sum[s], g.place[s], t < l.tiles, put);
      } else if (t < l.tiles) {
        each_tile_row(g.sum[s], Own::kPlaced ? g.place[s] : place_tile(l, t), put);
      }
    }
  };
  if (to.sum) {
    put_held([&](int at, float4 value) { to.put(at, value); });
  } else {
    put_held([&](int at, float4 value) { store4(to.partial + at, value); });
  }
  if constexpr (!Own::kPlaced) {
    for (int t = Own::tile(Own::kHeld); g.first && t < l.tiles; t += kThreads) {
      const TileSum zeros = {};
      each_tile_row(zeros, place_tile(l, t), [&](int at, float4 value) { to.put(at, value); });
    }
  }
  put_column(l, summed_columns(l), g.column, to);
}

}  // namespace
}  // namespace trpo_fast::cuda
