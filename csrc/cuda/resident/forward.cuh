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

// kCount of a tile's rows, kWarps apart: the first, and of each its observations and its weight. No
// observations past the end and where the weight is zero.
template <int kCount>
struct WarpRows {
  int first;
  const float* obs[kCount];
  float weight[kCount];

  // Column k of every row, all of them under way together.
  __device__ __forceinline__ void load(int k, int in, float (&value)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] = obs[i] && k < in ? obs[i][k] : k == in;
  }
};

// use(rows) for a tile's rows, kCount of a warp at a time.
template <int kCount, class Use>
__device__ __forceinline__ void each_loaded_rows(const KernelArgs& a, const RowSet& set,
                                                 int64_t number, Use use) {
#pragma unroll 1
  for (int r = warp_index(); r < a.layout.rows; r += kCount * kWarps) {
    WarpRows<kCount> rows;
    rows.first = r;
    int64_t n[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const int64_t i = number * a.layout.rows + r + j * kWarps;
      const bool exists = i < set.count && r + j * kWarps < a.layout.rows;
      n[j] = exists ? row_number(set, i) : 0;
      rows.weight[j] = exists;
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j)
      if (rows.weight[j] > 0.0f) rows.weight[j] = given_weight(a.rows, n[j]);
#pragma unroll
    for (int j = 0; j < kCount; ++j)
      rows.obs[j] = rows.weight[j] > 0.0f ? a.rows.obs + n[j] * a.layout.map[0].in : nullptr;
    use(rows);
  }
}

// The weights of such rows into their tile. Returns 1 where one of them is unusable.
template <int kCount>
__device__ __forceinline__ int put_weights(const Layout& l, const WarpRows<kCount>& rows,
                                           float* tile) {
  int bad = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int r = rows.first + i * kWarps;
    if (lane_index() != 0 || r >= l.rows) continue;
    const float w = rows.weight[i];
    tile[l.row_weights + r] = w > 0.0f ? w : 0.0f;
    bad |= !usable_weight(w);
  }
  return bad;
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
  constexpr int kCount = 2 * V::kM;  // all of a warp's
  each_loaded_rows<kCount>(a, set, number, [&](const WarpRows<kCount>& rows) {
    for (int k = lane_index(); k < stride; k += 32) {
      float value[kCount];
      rows.load(k, in, value);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        bad |= !usable_number(value[i]);
        tile[(rows.first + i * kWarps) * stride + k] = value[i];
      }
    }
    bad |= put_weights(l, rows, tile);
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
      m.out, [&](Patch& patch) { accumulate<V>(patch, product); },
      [&](const auto& outputs) {
        outputs.each_quad([&](int r, int c, auto value) {
          auto slope = value;
          if (hidden) {
            const Activated at = activate(l.activation, value.value);
            value.value = at.value, slope.value = at.slope;
          }
          put(on_chip(output) + r * stride + c, value);
          if (slopes) put(slopes + r * stride + c, slope);
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
    const Product product = map_product(m, input, weights + m.weights, true);
    block_forward_map<V>(l, m, i < l.maps - 1, product, work ? work + m.tangent : tile + m.output,
                         work ? m.stride_tangent : m.stride_out,
                         !work && m.slope >= 0 ? tile + m.slope : nullptr);
  }
  __syncthreads();  // the outputs are complete
}

}  // namespace
}  // namespace trpo_fast::cuda
