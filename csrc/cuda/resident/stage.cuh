// What every stage of the resident kernel shares: the register-tiled products of a tile of rows with
// a packed map, and packing.
//
// A block has 256 threads. Over a plane of 16 M rows they form patches of 4 rows by 4 columns. Where
// there are fewer patches than threads (16 or 32 rows, or few columns) 4, 8 or 16 lanes share one, each
// with every n-th quad of the sum over k: a patch of 4 x 4 takes 8 quads from shared memory for 64
// multiplications, one of 1 x 4 takes 5 for 16. All accumulation is fp32, in an order that follows from
// the shapes.
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

// f(x, y) of one value and what belongs to it, or of each of a quad's.
template <class F>
__device__ __forceinline__ void each_of(float& x, float& y, F f) {
  f(x, y);
}
template <class F>
__device__ __forceinline__ void each_of(Quad& x, Quad& y, F f) {
  f(x.value.x, y.value.x);
  f(x.value.y, y.value.y);
  f(x.value.z, y.value.z);
  f(x.value.w, y.value.w);
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
  __device__ __forceinline__ void add(Patch& patch, int q) const {
    float4 x[4], w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = load4(rows + i * row_step + q);
#pragma unroll
    for (int j = 0; j < 4; ++j) w[j] = load4(maps[j] + q);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) fused(patch.value[i][j], x[i], w[j]);
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
  for (int q = 4 * patch.lane; q < 4 * p.quads; q += 4 * patch.lanes) from.add(patch, q);
}

// The same of two products of as many quads: the loads of one are under way while the other multiplies.
template <class V>
__device__ __forceinline__ void accumulate(Patch& patch, const Product& p, const Product& other) {
  const Operands<V> from(patch, p), beside(patch, other);
  from.add_bias(patch, p);
#pragma unroll 1
  for (int q = 4 * patch.lane; q < 4 * p.quads; q += 4 * patch.lanes) {
    from.add(patch, q);
    beside.add(patch, q);
  }
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
  constexpr int kPairs = 2 * kM;  // of rows of patches
  const int groups = ceil_div(width, 4);
  const int lanes = groups * kM <= 4 ? 16 : groups * kM <= 8 ? 8 : 4, columns = 16 / lanes;
  const auto [row, column, part] = patch_lane(lanes);
  const int pieces = kPairs * ceil_div(groups, columns);
#pragma unroll 1
  for (int piece = warp_index(); piece < pieces; piece += kWarps) {
    const int group = piece / kPairs * columns + column;
    Patch patch = {
        8 * (piece % kPairs) + 4 * row, 1, 4 * min(group, groups - 1), 1, width, part, lanes, {}};
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
