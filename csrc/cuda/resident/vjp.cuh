// Stage vjp: deltas back through the net. What follows, the weight gradients, is in weight_gradients.cuh.
#pragma once
#include "cuda/resident/activation.cuh"
#include "cuda/resident/weight_gradients.cuh"

namespace trpo_fast::cuda {
namespace {

// A packed map the other way round: patch += delta rows times W, whose rows are the outputs. Lanes that
// share a patch take every n-th quad of outputs, and one each of what is left.
template <class V>
__device__ __forceinline__ void accumulate_back(Patch& patch, const Product& p, int outputs) {
  const float* deltas = on_chip(p.plane + patch.row * p.stride_plane);
  const float* map = packed_at<V>(p.map + patch.column);
  const int row_step = patch.row_step * p.stride_plane;
#pragma unroll 2
  for (int o = 4 * patch.lane; o + 4 <= outputs; o += 4 * patch.lanes) {
    float4 d[4], w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] = load4(deltas + i * row_step + o);
#pragma unroll
    for (int j = 0; j < 4; ++j) w[j] = load4(map + (o + j) * p.stride_map);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      fused4(patch.value[i], d[i].x, w[0]);
      fused4(patch.value[i], d[i].y, w[1]);
      fused4(patch.value[i], d[i].z, w[2]);
      fused4(patch.value[i], d[i].w, w[3]);
    }
  }
#pragma unroll 1
  for (int o = (outputs & ~3) + patch.lane; o < outputs; o += patch.lanes) {
    const float4 w = load4(map + o * p.stride_map);
#pragma unroll
    for (int i = 0; i < 4; ++i) fused4(patch.value[i], deltas[i * row_step + o], w);
  }
}

// The rows of a thread's own patch of 4 rows by one quad.
struct PatchRows {
  const Patch& patch;

  template <class Store>  // store(row, column, quad)
  __device__ __forceinline__ void each(Store store) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto& x = patch.value[i];
      store(patch.row + patch.row_step * i, patch.column,
            Quad{{x[0], x[1], x[2], x[3]}, patch.width - patch.column});
    }
  }
};

// As block_patches, each patch being 4 rows by one quad.
template <int kM, class Fill, class Finish>
__device__ __forceinline__ void block_quads(int width, Fill fill, Finish finish) {
  if constexpr (kM == 4) {
    const auto [row, first] = patch_place();
    for (int q = 4 * first; q < width; q += 4 * kThreads / kRowGroups) {
      Patch patch = {row, kRowGroups, q, 1, width, 0, 1, {}};
      fill(patch);
      finish(PatchRows{patch});
    }
  } else {
    block_patches<kM>(width, fill, finish);
  }
}

// delta_{l-1} = act'(h_{l-1}) * (W_l' delta_l), from the outputs down; overwrites the tangents.
// Closes with a barrier.
template <class V>
__device__ __forceinline__ void block_deltas(const Layout& l, const float* weights,
                                             const float* tile, float* work) {
  for (int i = l.maps - 1; i > 0; --i) {
    const MapLayout &m = l.map[i], &below = l.map[i - 1];
    float* out = on_chip(work + below.tangent);
    const Product product = {
        work + m.tangent, weights + m.weights, m.stride_tangent, m.stride_in, 0, -1};
    block_quads<V::kM>(
        m.in, [&](Patch& patch) { accumulate_back<V>(patch, product, m.out); },
        [&](const auto& outputs) {
          with_slope(l.activation, tile + below.output, tile + below.slope,
                     [&](const float* kept, auto slope) {
                       outputs.each([&](int r, int c, const Quad& quad) {
                         put(out + r * below.stride_tangent + c,
                             sloped(quad, kept + r * below.stride_out + c, slope));
                       });
                     });
        });
    __syncthreads();  // deltas of this map's inputs are complete
  }
}

}  // namespace
}  // namespace trpo_fast::cuda
