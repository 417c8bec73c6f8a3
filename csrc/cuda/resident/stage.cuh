// What every stage of the resident kernel shares: the register-tiled products of a tile of rows with
// a packed map, and packing. All accumulation is fp32, in an order that follows from the shapes.
#pragma once
#include "cuda/prims/copy.cuh"
#include "cuda/prims/grid_sync.cuh"
#include "cuda/prims/reduce.cuh"
#include "cuda/resident/block.cuh"
#include "cuda/resident/config.h"
#include "cuda/resident/patches.cuh"
#include "shared/heads.h"

namespace trpo_fast::cuda {
namespace {

// Packed weights or a packed v: on chip unless this variation streams them.
template <class V, class T>
__device__ __forceinline__ T* packed_at(T* pointer) {
  if constexpr (V::kStreamed) return pointer;
  return on_chip(pointer);
}

__device__ __forceinline__ void fused(float& acc, float4 a, float4 b) {
  acc = fmaf(a.x, b.x, acc);
  acc = fmaf(a.y, b.y, acc);
  acc = fmaf(a.z, b.z, acc);
  acc = fmaf(a.w, b.w, acc);
}

// One product of a plane [rows, k] with a packed map [outputs, k].
struct Product {
  const float* plane;
  const float* map;
  int stride_plane, stride_map;
  int quads;
  int bias;  // column of the map to be added as it is, -1: none, or among the quads
};

// The product of a plane of m's inputs, followed by the constant 1 (or not), with a packed map. Where
// the constant has a quad of its own, it is not multiplied.
__device__ __forceinline__ Product map_product(const MapLayout& m, const float* plane,
                                               const float* packed, bool constant) {
  const bool apart = m.in % 4 == 0;
  return {plane,
          packed,
          m.stride_in,
          m.stride_in,
          apart ? m.in / 4 : row_quads(m.in),
          apart && constant ? m.in : -1};
}

// Four rows of a plane and of a map, one quad of each.
struct Quads {
  float4 x[4], w[4];

  __device__ __forceinline__ void multiply(Patch& patch) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) fused(patch.value[i][j], x[i], w[j]);
  }
};

// What a thread of a patch reads of a product.
template <class V>
struct Operands {
  const float* rows;
  const float* maps[4];
  int row_step;

  __device__ __forceinline__ Operands(const Patch& patch, const Product& p)
      : rows(on_chip(p.plane + patch.row * p.stride_plane)),
        row_step(patch.row_step * p.stride_plane) {
#pragma unroll
    for (int j = 0; j < 4; ++j)  // columns past the last compute what nobody stores
      maps[j] = packed_at<V>(p.map + min(patch.column + j * patch.column_step, patch.width - 1) *
                                         p.stride_map);
  }
  __device__ __forceinline__ Quads load(int q) const {
    Quads at;
#pragma unroll
    for (int i = 0; i < 4; ++i) at.x[i] = load4(rows + i * row_step + q);
#pragma unroll
    for (int j = 0; j < 4; ++j) at.w[j] = load4(maps[j] + q);
    return at;
  }
  __device__ __forceinline__ void add_bias(Patch& patch, const Product& p) const {
    if (p.bias < 0 || patch.lane != 0) return;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float bias = maps[j][p.bias];
#pragma unroll
      for (int i = 0; i < 4; ++i) patch.value[i][j] += bias;
    }
  }
};

// patch += rows of the plane times rows of the map.
template <class V>
__device__ __forceinline__ void accumulate(Patch& patch, const Product& p) {
  const Operands<V> from(patch, p);
  from.add_bias(patch, p);
#pragma unroll 2
  for (int q = 4 * patch.lane; q < 4 * p.quads; q += 4 * patch.lanes) from.load(q).multiply(patch);
}

// The same of two products of as many quads: the quads of one are on their way while those of the other
// are multiplied.
template <class V>
__device__ __forceinline__ void accumulate(Patch& patch, const Product& p, const Product& other) {
  const Operands<V> from(patch, p), beside(patch, other);
  from.add_bias(patch, p);
  int q = 4 * patch.lane;
  const int end = 4 * p.quads, step = 4 * patch.lanes;
  if (q >= end) return;
  Quads first = from.load(q);
#pragma unroll 1
  for (; q < end; q += step) {
    const Quads second = beside.load(q);
    first.multiply(patch);
    if (q + step < end) first = from.load(q + step);
    second.multiply(patch);
  }
}

// Threads that share a piece of work: those of a block, or of the grid.
struct Party {
  int thread, threads;
};
__device__ __forceinline__ Party block_party() { return {static_cast<int>(threadIdx.x), kThreads}; }
__device__ __forceinline__ Party grid_party(const Block& b) {
  return {b.index * kThreads + static_cast<int>(threadIdx.x), b.grid * kThreads};
}

// Where a quad of a packed vector comes from: its first `count` values from flat place `first` on, behind
// them the bias (-1: it is not among them), the rest is padding.
struct QuadSource {
  int first, count, bias;
};

// The sources of the quads first, first + step, ..., without a division; nothing past the end.
template <int kBatch>
__device__ __forceinline__ void quad_sources(const Layout& l, int first, int step,
                                             QuadSource (&from)[kBatch]) {
#pragma unroll
  for (int n = 0; n < kBatch; ++n) {
    const int i = l.log_std < 0 ? -1 : 4 * (first + n * step) - l.log_std;
    from[n] = {l.flat_log_std + i, i < 0 ? 0 : l.actions - i, -1};
  }
#pragma unroll 1
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const int in = m.in, stride = m.stride_in, flat = m.flat, begin = m.weights / 4;
    const int biases = flat + m.out * in;
    const unsigned quads = m.out * stride / 4, magic = m.row_magic;
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const unsigned quad = first + n * step - begin;
      if (quad >= quads) continue;
      const int row = static_cast<int>(uint64_t{magic} * quad >> 31);
      const int column = 4 * static_cast<int>(quad) - row * stride;
      const int count = in - column;
      from[n] = {flat + row * in + column, count,
                 static_cast<unsigned>(count) < 4 ? biases + row : -1};
    }
  }
}

// packed <- value(flat index); padding becomes zero. kBatch quads of a thread are under way together. No
// barrier.
template <int kBatch, class Value>
__device__ __forceinline__ void pack_values(const Layout& l, float* packed, Party party,
                                            Value value) {
  const int end = l.packed / 4;
#pragma unroll 1
  for (int first = party.thread; first < end; first += kBatch * party.threads) {
    QuadSource from[kBatch];
    quad_sources(l, first, party.threads, from);
    float x[kBatch][4], bias[kBatch];
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) x[n][j] = j < from[n].count ? value(from[n].first + j) : 0.0f;
      bias[n] = from[n].bias >= 0 ? value(from[n].bias) : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j == from[n].count) x[n][j] = bias[n];
      const int quad = first + n * party.threads;
      if (quad < end) store4(packed + 4 * quad, make_float4(x[n][0], x[n][1], x[n][2], x[n][3]));
    }
  }
}

// packed <- flat [P]; padding becomes zero. No barrier.
__device__ __forceinline__ void pack(const Layout& l, const float* flat, float* packed,
                                     Party party) {
  pack_values<6>(l, packed, party, [&](int i) { return flat[i]; });
}

}  // namespace
}  // namespace trpo_fast::cuda
