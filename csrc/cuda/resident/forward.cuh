// Stage forward: rows of observations into a tile, and h_l = act(W_l h_{l-1} + b_l) through it.
#pragma once
#include "cuda/resident/activation.cuh"
#include "shared/bad_values.h"

namespace trpo_fast::cuda {
namespace {

__device__ __forceinline__ int64_t row_number(const RowSet& set, int64_t i) {
  return set.index ? set.index[i] : i;
}

__device__ __forceinline__ float row_weight(const Rows& rows, int64_t n) {
  return rows.weights ? rows.weights[n] : 1.0f;
}

// The same where n is an index that the caller gave: NaN outside of the batch, which flags it like any
// weight that no update can use; nothing of such a row is read.
__device__ __forceinline__ float given_weight(const Rows& rows, int64_t n) {
  return n >= 0 && n < rows.count ? row_weight(rows, n) : NAN;
}

// use(row, its observations, its weight) for a tile's rows, a warp each; null past the end and where the
// weight is zero.
template <class Use>
__device__ __forceinline__ void each_loaded_row(const KernelArgs& a, const RowSet& set,
                                                int64_t number, Use use) {
  for (int r = warp_index(); r < a.layout.rows; r += kWarps) {
    const int64_t i = number * a.layout.rows + r;
    const int64_t n = i < set.count ? row_number(set, i) : 0;
    const float w = i < set.count ? given_weight(a.rows, n) : 0.0f;
    use(r, w > 0.0f ? a.rows.obs + n * a.layout.map[0].in : nullptr, w);
  }
}

// Observations [rows, O], their constant 1, and the row weights of one tile. Rows past the end and
// rows of weight zero become zeros of weight zero. Returns 1 in a thread that met a value no update
// can use.
template <class V>
__device__ __forceinline__ int block_load_rows(const KernelArgs& a, const RowSet& set,
                                               int64_t number, float* tile) {
  const Layout& l = a.layout;
  const int in = l.map[0].in, stride = l.map[0].stride_in;
  int bad = 0;
  each_loaded_row(a, set, number, [&](int r, const float* obs, float w) {
    for (int k = lane_index(); k < stride; k += 32) {
      const float value = obs && k < in ? obs[k] : k == in ? 1.0f : 0.0f;
      bad |= !usable_number(value);
      tile[r * stride + k] = value;
    }
    if (lane_index() != 0) return;
    tile[l.row_weights + r] = w > 0.0f ? w : 0.0f;
    bad |= !usable_weight(w);
  });
  return bad;
}

// One map: outputs from inputs by packed weights; hidden outputs are activated. With a slope plane
// (silu, gelu; null elsewhere) act' is kept beside them.
template <class V>
__device__ __forceinline__ void block_forward_map(const Layout& l, const MapLayout& m, bool hidden,
                                                  const Product& product, float* output, int stride,
                                                  float* slopes) {
  block_patches<V::kM>(
      m.out, [&](auto& patch) { accumulate<V>(patch, product); },
      [&](const auto& patch) {
        patch.each([&](int r, int c, float z) {
          float slope = 0.0f;
          on_chip(output)[r * stride + c] = hidden ? activate(l.activation, z, &slope) : z;
          if (slopes) slopes[r * stride + c] = slope;
        });
      });
  if (hidden)
    for (int r = threadIdx.x; r < l.rows; r += kThreads) output[r * stride + m.out] = 1.0f;
}

// The whole net on the observations of a tile. Under theta (`work` null) its planes stay in the tile
// for the products; under a candidate's weights they are the work planes, of which the last receives
// the outputs. Opens and closes with a barrier. Not inlined: five programs call it, rarely.
template <class V>
__device__ TRPO_NOINLINE void block_forward(const Layout& l, const float* weights, float* tile,
                                            float* work) {
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    __syncthreads();  // the inputs of this map are written, readers of its outputs are done
    const float* input = i == 0 || !work ? tile + m.input : work + l.map[i - 1].tangent;
    const Product product = {input, weights + m.weights, m.stride_in, m.stride_in, row_quads(m.in)};
    block_forward_map<V>(l, m, i < l.maps - 1, product, work ? work + m.tangent : tile + m.output,
                         work ? m.stride_tangent : m.stride_out,
                         !work && m.slope >= 0 ? tile + m.slope : nullptr);
  }
  __syncthreads();  // the outputs are complete
}

}  // namespace
}  // namespace trpo_fast::cuda
