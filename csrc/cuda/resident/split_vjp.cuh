// Weight gradients in split precision: delta' h over the rows of a tile on tensor cores.
//
// The weight gradients of all maps form one list of blocks of 32 outputs by 32 inputs; warp w owns
// blocks w, w + 8, ... and keeps their sums in registers over all tiles of rows. A tile's own sum is
// scaled back and added in fp32, since every tile has its own powers of two. Blocks cover the
// constant input, whose column is the bias, only where they have room for it; otherwise one thread
// per output adds up the deltas.
#pragma once
#include "cuda/resident/split_products.cuh"
#include "cuda/resident/vjp.cuh"

namespace trpo_fast::cuda {
namespace {

// Where a block of 32 x 32 lies.
struct SplitPlace {
  int map, output, input;  // its first output and input
};

__device__ __forceinline__ SplitPlace place_block(const Layout& l, int block) {
  int i = 0;
  while (i + 1 < l.maps && block >= l.map[i + 1].first_tile) ++i;
  const int local = block - l.map[i].first_tile, columns = l.map[i].tile_columns;
  return {i, 32 * (local / columns), 32 * (local % columns)};
}

// The map and output that number `t` of all outputs is; map == l.maps past the last.
__device__ __forceinline__ SplitPlace place_output(const Layout& l, int t) {
  int i = 0;
  while (i < l.maps && t >= l.map[i].out) t -= l.map[i++].out;
  return {i, t, 0};
}

// D[o][k] += sum over rows of delta[r][o] h[r][k]: sum[u][t][i] is output 4 group + 2 u + i / 2 and
// input 4 (2 pair + i % 2) + t. A lane's quads of four rows are its share of two A and four B.
template <class Half>
__device__ __forceinline__ void warp_outer(float (&sum)[2][4][4], const Layout& l,
                                           const SplitPlace& at, const Block& b, const float* tile,
                                           int rows, float up_delta, float up_input) {
  using Split = Split16<Half>;
  const int group = lane_index() >> 2, pair = lane_index() & 3;
  const MapLayout& m = l.map[at.map];
  const int o = at.output + 4 * group, k = at.input + 4 * group;
  const float* deltas = on_chip(b.work + m.tangent + o);
  const float* inputs = on_chip(tile + m.input + k);
#pragma unroll 1
  for (int first = 0; first < rows; first += 16) {
    float4 x[4], y[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int r = first + 2 * pair + (j & 1) + 8 * (j >> 1);
      const float4 zero = make_float4(0, 0, 0, 0);
      x[j] = o < m.stride_tangent ? load4(deltas + r * m.stride_tangent) : zero;
      y[j] = k < m.stride_in ? load4(inputs + r * m.stride_in) : zero;
    }
    typename Split::A a[2];
    const auto pack_a = [&](int u, int half, float x0, float x1, float x2, float x3) {
      Split::split(x0 * up_delta, x1 * up_delta, &a[u].high[half], &a[u].low[half]);
      Split::split(x2 * up_delta, x3 * up_delta, &a[u].high[half + 2], &a[u].low[half + 2]);
    };
    pack_a(0, 0, x[0].x, x[1].x, x[2].x, x[3].x);
    pack_a(0, 1, x[0].y, x[1].y, x[2].y, x[3].y);
    pack_a(1, 0, x[0].z, x[1].z, x[2].z, x[3].z);
    pack_a(1, 1, x[0].w, x[1].w, x[2].w, x[3].w);
    const auto multiply = [&](int t, float y0, float y1, float y2, float y3) {
      typename Split::B w;
      Split::split(y0 * up_input, y1 * up_input, &w.high[0], &w.low[0]);
      Split::split(y2 * up_input, y3 * up_input, &w.high[1], &w.low[1]);
      Split::multiply(sum[0][t], a[0], w);
      Split::multiply(sum[1][t], a[1], w);
    };
    multiply(0, y[0].x, y[1].x, y[2].x, y[3].x);
    multiply(1, y[0].y, y[1].y, y[2].y, y[3].y);
    multiply(2, y[0].z, y[1].z, y[2].z, y[3].z);
    multiply(3, y[0].w, y[1].w, y[2].w, y[3].w);
  }
}

// What a thread holds while the block goes through its tiles of rows.
template <int kSlots>
struct SplitGradients {
  float sum[kSlots][2][4][4];
  float bias[kBiasSlots];  // of outputs threadIdx.x, threadIdx.x + 256, ...
  float log_std;           // threads from the end of the block: one column each

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) clear_sum(sum[s]);
#pragma unroll
    for (int s = 0; s < kBiasSlots; ++s) bias[s] = 0.0f;
    log_std = 0.0f;
  }
  __device__ static __forceinline__ void clear_sum(float (&sum)[2][4][4]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) sum[i >> 4][i >> 2 & 3][i & 3] = 0.0f;
  }
  // Adds a tile's sum to slot number `slot`, every register by its constant index.
  __device__ __forceinline__ void add(int slot, const float (&part)[2][4][4], float down) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s)
      if (s == slot)
#pragma unroll
        for (int i = 0; i < 32; ++i) {
          float& to = sum[s][i >> 4][i >> 2 & 3][i & 3];
          to = fmaf(part[i >> 4][i >> 2 & 3][i & 3], down, to);
        }
  }
};

// Adds a tile's first `rows` rows. No barrier: whoever overwrites the planes next opens with one.
template <class Half, int kSlots>
__device__ __forceinline__ void block_split_gradients(const Layout& l, const Block& b,
                                                      const float* tile, int rows,
                                                      SplitGradients<kSlots>& g) {
#pragma unroll 1
  for (int s = 0, block = warp_index(); block < l.tiles; ++s, block += kWarps) {
    const SplitPlace at = place_block(l, block);
    const Scale delta = make_scale(plane_peaks(b, kWorkPeaks, at.map));
    const Scale input = make_scale(tile_peaks(l, tile, at.map));
    float part[2][4][4];
    SplitGradients<kSlots>::clear_sum(part);
    warp_outer<Half>(part, l, at, b, tile, rows, delta.up, input.up);
    g.add(s, part, delta.down * input.down);
  }
#pragma unroll
  for (int s = 0; s < kBiasSlots; ++s) {
    const SplitPlace at = place_output(l, threadIdx.x + s * kThreads);
    if (at.map == l.maps || l.map[at.map].in % 32 != 0) continue;
    const MapLayout& m = l.map[at.map];
    g.bias[s] += column_sum(b.work + m.tangent + at.output, m.stride_tangent, rows);
  }
  add_log_std(l, b.work, rows, g.log_std);
}

// What the thread's registers hold goes out, and zeros to the padding.
template <int kSlots>
__device__ __forceinline__ void block_put_split_gradients(const Layout& l,
                                                          const SplitGradients<kSlots>& g,
                                                          const Destination& to) {
  const int group = lane_index() >> 2, pair = lane_index() & 3;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int block = warp_index() + s * kWarps;
    if (block >= l.tiles) continue;
    const SplitPlace at = place_block(l, block);
    const MapLayout& m = l.map[at.map];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int u = j >> 2, i = j & 3;
      const int o = at.output + 4 * group + 2 * u + (i >> 1), k = at.input + 8 * pair + 4 * (i & 1);
      if (o < m.out && k < m.stride_in)
        to.put(m.weights + o * m.stride_in + k, make_float4(g.sum[s][u][0][i], g.sum[s][u][1][i],
                                                            g.sum[s][u][2][i], g.sum[s][u][3][i]));
    }
  }
#pragma unroll
  for (int s = 0; s < kBiasSlots; ++s) {
    const SplitPlace at = place_output(l, threadIdx.x + s * kThreads);
    if (at.map == l.maps) continue;
    const MapLayout& m = l.map[at.map];
    const int covered = 32 * m.tile_columns;  // the rest of the row is one quad at most
    if (covered < m.stride_in)
      to.put(m.weights + at.output * m.stride_in + covered,
             make_float4(m.in % 32 == 0 ? g.bias[s] : 0.0f, 0, 0, 0));
  }
  put_log_std(l, g.log_std, to);
}

}  // namespace
}  // namespace trpo_fast::cuda
