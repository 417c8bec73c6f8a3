// What every stage of the resident kernel shares: the register-tiled products of a tile of rows with
// a packed map, and packing.
//
// A block has 256 threads. Over a plane of 16 M rows its lanes form patches of M rows (16 apart)
// by 1 or 4 columns: a warp covers 4 rows x 8 columns of patches, so that a quad of eight packed
// rows is read without bank conflict and quads of activations are broadcasts. All accumulation is
// fp32, along k in order.
#pragma once
#include "cuda/prims/copy.cuh"
#include "cuda/prims/grid_sync.cuh"
#include "cuda/prims/reduce.cuh"
#include "cuda/resident/block.cuh"
#include "cuda/resident/config.h"
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

// kM x kC outputs of one thread: rows row + 16 i, columns column + step j.
template <int kM, int kC>
struct Patch {
  int row, column, step, width;
  float value[kM][kC];

  template <class Store>  // store(row, column, value)
  __device__ __forceinline__ void each(Store store) const {
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kC; ++j)
        if (column + j * step < width) store(row + kRowGroups * i, column + j * step, value[i][j]);
  }
};

// One product of a plane [rows, k] with a packed map [outputs, k].
struct Product {
  const float* plane;
  const float* map;
  int stride_plane, stride_map, quads;
};

// patch += rows of the plane times rows of the map.
template <class V, int kM, int kC>
__device__ __forceinline__ void accumulate(Patch<kM, kC>& patch, const Product& p) {
  const float* rows = on_chip(p.plane + patch.row * p.stride_plane);
  const int row_step = kRowGroups * p.stride_plane;
  const float* maps[kC];
#pragma unroll
  for (int j = 0; j < kC; ++j)  // columns past the last compute what nobody stores
    maps[j] =
        packed_at<V>(p.map + min(patch.column + j * patch.step, patch.width - 1) * p.stride_map);
#pragma unroll 2
  for (int q = 0; q < 4 * p.quads; q += 4) {
    float4 x[kM], w[kC];
#pragma unroll
    for (int i = 0; i < kM; ++i) x[i] = load4(rows + i * row_step + q);
#pragma unroll
    for (int j = 0; j < kC; ++j) w[j] = load4(maps[j] + q);
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kC; ++j) fused(patch.value[i][j], x[i], w[j]);
  }
}

// The first row and column of a thread's patches. Of a warp's 4 rows by 8 columns, lanes n and n ^ 1
// share a column, n and n ^ 2 a row: shared memory serves 16-byte loads twice as fast when all such
// pairs read the same address.
struct PatchPlace {
  int row, column;
};
__device__ __forceinline__ PatchPlace patch_place() {
  const int lane = lane_index(), warp = warp_index();
  const int row = (lane & 1) | (lane >> 1 & 2), column = (lane >> 1 & 1) | (lane >> 2 & 6);
  return {(warp & 3) * 4 + row, (warp >> 2) * 8 + column};
}

// Calls finish(patch) for every patch of a plane [16 kM, width]; fill(patch) computes its values.
// A narrow plane takes one column per thread, so that more threads share it.
template <int kM, class Fill, class Finish>
__device__ __forceinline__ void block_patches(int width, Fill fill, Finish finish) {
  constexpr int kColumns = kThreads / kRowGroups;
  const auto [row, first] = patch_place();
  if (width <= kColumns) {
    if (first >= width) return;
    Patch<kM, 1> patch = {row, first, 1, width, {}};
    fill(patch);
    finish(patch);
    return;
  }
  const int groups = ceil_div(width, 4);
  for (int column = first; column < groups; column += kColumns) {
    Patch<kM, 4> patch = {row, column, groups, width, {}};
    fill(patch);
    finish(patch);
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
