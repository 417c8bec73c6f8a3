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

// packed <- value(flat index) for every map; padding becomes zero. kBatch values at a time are under
// way together, and no number of them takes a division. No barrier.
template <int kBatch, class Value>
__device__ __forceinline__ void pack_maps(const Layout& l, float* packed, Party party,
                                          Value value) {
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const int size = m.out * m.stride_in, bias = m.flat + m.out * m.in;
    int o = party.thread / m.stride_in, k = party.thread % m.stride_in;
    const int rows = party.threads / m.stride_in, columns = party.threads % m.stride_in;
#pragma unroll 1
    for (int base = party.thread; base < size; base += kBatch * party.threads) {
      float x[kBatch];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const bool inside = base + n * party.threads < size && k <= m.in;
        const float found = value(!inside ? m.flat : k < m.in ? m.flat + o * m.in + k : bias + o);
        x[n] = inside ? found : 0.0f;
        o += rows;
        k += columns;
        if (k >= m.stride_in) ++o, k -= m.stride_in;
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int at = base + n * party.threads;
        if (at < size) packed[m.weights + at] = x[n];
      }
    }
  }
}

// packed <- flat [P]; padding becomes zero. No barrier.
__device__ __forceinline__ void pack(const Layout& l, const float* flat, float* packed,
                                     Party party) {
  pack_maps<8>(l, packed, party, [&](int i) { return flat[i]; });
  if (l.log_std < 0) return;
  for (int i = party.thread; i < padded(l.actions); i += party.threads)
    packed[l.log_std + i] = i < l.actions ? flat[l.flat_log_std + i] : 0.0f;
}

}  // namespace
}  // namespace trpo_fast::cuda
