// Weight gradients in split precision: delta' h over the rows of a tile on tensor cores.
//
// The weight gradients of all maps form one list of blocks of 32 outputs by 32 inputs; warp w owns
// blocks w, w + 8, ... and keeps their sums in registers over all tiles of rows. A step's sums, over 16
// rows, are scaled back and added in fp32, since every band has its own power of two. The bias is the
// column of the constant input, or where that has no room the product with ones.
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
  const MapLayout& m = l.map[i];
  const int local = block - m.first_tile, row = two_rows_of(m, 2 * local);
  return {i, kBlockSide * row, kBlockSide * (local - row * m.tile_columns)};
}

// A warp's block of a weight gradient: 2 x 4 tiles of the tensor cores, and the sums of deltas.
struct BlockSum {
  float value[2][4][4];
  float bias[2][2];  // of outputs group and group + 8 of each half, where the bias is apart

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 32; ++i) value[i >> 4][i >> 2 & 3][i & 3] = 0.0f;
    bias[0][0] = bias[0][1] = bias[1][0] = bias[1][1] = 0.0f;
  }
  __device__ __forceinline__ void add(const BlockSum& other) {
#pragma unroll
    for (int i = 0; i < 32; ++i)
      value[i >> 4][i >> 2 & 3][i & 3] += other.value[i >> 4][i >> 2 & 3][i & 3];
#pragma unroll
    for (int i = 0; i < 4; ++i) bias[i >> 1][i & 1] += other.bias[i >> 1][i & 1];
  }
};

// One half of a step, 16 outputs by the block's 32 inputs: sum += down * A B. Products of high halves are
// in chains of their own.
template <class Half>
__device__ __forceinline__ void add_half(float (&sum)[4][4], const typename Split16<Half>::A& a,
                                         const uint32_t (&b)[4][4], float down) {
  float large[4][4] = {}, small[4][4] = {};
  uint32_t high[4][2], low[4][2];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    high[t][0] = b[t][0], high[t][1] = b[t][1];
    low[t][0] = b[t][2], low[t][1] = b[t][3];
  }
#pragma unroll
  for (int t = 0; t < 4; ++t) Half::product(small[t], a.low, high[t]);
#pragma unroll
  for (int t = 0; t < 4; ++t) Half::product(large[t], a.high, high[t]);
#pragma unroll
  for (int t = 0; t < 4; ++t) Half::product(small[t], a.high, low[t]);
#pragma unroll
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[t][i] = fmaf(large[t][i] + small[t][i], down, sum[t][i]);
}

// Sums of the step's deltas.
template <class Half>
__device__ __forceinline__ void add_bias(float (&sum)[2], const typename Split16<Half>::A& a,
                                         float down) {
  const uint32_t one = Half::pack(1.0f, 1.0f), ones[2] = {one, one};
  float large[4] = {}, small[4] = {};
  Half::product(large, a.high, ones);
  Half::product(small, a.low, ones);
  sum[0] = fmaf(large[0] + small[0], down, sum[0]);
  sum[1] = fmaf(large[2] + small[2], down, sum[1]);
}

// sum += the rows' outer products. Columns past the last input are sums of no use.
template <class Half>
__device__ __forceinline__ void warp_outer(BlockSum& sum, const Layout& l, const SplitPlace& at,
                                           const Block& b, const float* tile, int rows) {
  const int lane = lane_index();
  const MapLayout& m = l.map[at.map];
  const Halves deltas = plane_halves(l, b.work + m.deltas, m.out);
  const Halves inputs = plane_halves(l, tile + m.input, m.in);
  const int first_d = (at.output >> 3) + (lane >> 3 & 1), first_h = at.input >> 3;
  const int turn_d = chunk_turn(lane, deltas.chunks), turn_h = chunk_turn(lane, inputs.chunks);
  SharedRow d[2], h[4];
  const SharedRow d_rows =
      shared_row(deltas.at) + 16 * ((lane & 7) + (lane >> 4) * 8) * deltas.chunks;
  const SharedRow h_rows =
      shared_row(inputs.at) + (lane >> 4) * 4 * inputs.low + 16 * (lane & 15) * inputs.chunks;
#pragma unroll
  for (int u = 0; u < 2; ++u)
    d[u] = d_rows + 16 * (min(first_d + 2 * u, deltas.chunks - 1) ^ turn_d);
#pragma unroll
  for (int t = 0; t < 4; ++t) h[t] = h_rows + 16 * (min(first_h + t, inputs.chunks - 1) ^ turn_h);
  const bool both = at.output + 16 < m.out, biased = at.input == 0 && bias_apart(m.in);
  const float down_h = down_of(band_exponent(tile_marks(l, tile, at.map), 0));
  const uint32_t* marks = plane_marks(b, kWorkPeaks, at.map);
  const int low = 4 * deltas.low;
#pragma unroll 1
  for (int band = 0; kBandRows * band < rows; ++band) {
    typename Split16<Half>::A a;
    uint32_t w[4][4];
    const auto load_deltas = [&](int u) {
      ldmatrix<4, true>(a.high, d[u]);
      ldmatrix<4, true>(a.low, d[u] + low);
    };
    const float down_d = down_of(band_exponent(marks, band)), down = down_d * down_h;
    load_deltas(0);
#pragma unroll
    for (int t = 0; t < 4; ++t) ldmatrix<4, true>(w[t], h[t]);
    add_half<Half>(sum.value[0], a, w, down);
    if (biased) add_bias<Half>(sum.bias[0], a, down_d);
    if (both) {
      load_deltas(1);
      add_half<Half>(sum.value[1], a, w, down);
      if (biased) add_bias<Half>(sum.bias[1], a, down_d);
    }
#pragma unroll
    for (int u = 0; u < 2; ++u) d[u] += 16 * kBandRows * deltas.chunks;
#pragma unroll
    for (int t = 0; t < 4; ++t) h[t] += 16 * kBandRows * inputs.chunks;
  }
}

// What a thread holds while the block goes through its tiles of rows.
template <int kSlots>
struct SplitGradients {
  BlockSum sum[kSlots];
  float log_std;  // threads from the end of the block: one column each

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) sum[s].clear();
    log_std = 0.0f;
  }
  // Adds a tile's sum to slot number `slot`, every register by its constant index.
  __device__ __forceinline__ void add(int slot, const BlockSum& part) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s)
      if (s == slot) sum[s].add(part);
  }
};

// Adds a tile's first `rows` rows. No barrier: whoever overwrites the planes next opens with one.
template <class Half, int kSlots>
__device__ __forceinline__ void block_split_gradients(const Layout& l, const Block& b,
                                                      const float* tile, int rows,
                                                      SplitGradients<kSlots>& g) {
#pragma unroll 1
  for (int s = 0, block = warp_index(); block < l.tiles; ++s, block += kWarps) {
    BlockSum part;  // in registers through its loop: sums of all tiles may lie in local memory
    part.clear();
    warp_outer<Half>(part, l, place_block(l, block), b, tile, rows);
    g.add(s, part);
  }
  add_log_std(l, b.work, rows, g.log_std);
}

// One tile of a block, 16 outputs by 8 inputs, as quads: pairs of lanes swap halves of theirs.
__device__ __forceinline__ float4 tile_quad(const float (&v)[4]) {
  const bool odd = lane_index() & 1;
  const float x = __shfl_xor_sync(kFullWarp, odd ? v[0] : v[2], 1);
  const float y = __shfl_xor_sync(kFullWarp, odd ? v[1] : v[3], 1);
  return odd ? make_float4(x, y, v[2], v[3]) : make_float4(v[0], v[1], x, y);
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
    const int end = bias_apart(m.in) ? m.in : m.stride_in, chunks = half_chunks(m.in);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float4 quad = tile_quad(g.sum[s].value[i >> 2][i & 3]);
      const int o = at.output + 16 * (i >> 2) + group + 8 * (pair & 1);
      const int k = at.input + 8 * (i & 3) + 4 * (pair >> 1);
      if (k >= 8 * chunks) quad = make_float4(0, 0, 0, 0);
      if (o < m.out && k < end) to.put(m.weights + o * m.stride_in + k, quad);
    }
    // The bias, or the padding that blocks do not cover: a quad at most.
    const int rest = bias_apart(m.in) ? m.in : kBlockSide * m.tile_columns;
    if (at.input != 0 || pair != 0 || rest >= m.stride_in) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int o = at.output + group + 8 * i;
      if (o < m.out)
        to.put(m.weights + o * m.stride_in + rest,
               make_float4(g.sum[s].bias[i >> 1][i & 1], 0, 0, 0));
    }
  }
  put_log_std(l, g.log_std, to);
}

}  // namespace
}  // namespace trpo_fast::cuda
