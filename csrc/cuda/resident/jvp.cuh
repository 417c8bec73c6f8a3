// Stage jvp: dh_l = act'(h_l) * (V_l h_{l-1} + v_l + W_l dh_{l-1}) through a tile's planes. Where the
// metric of a row is a diagonal in the net's outputs, the last map's "slopes" are that diagonal, so that
// what comes out is M J v.
#pragma once
#include "cuda/resident/activation.cuh"

namespace trpo_fast::cuda {
namespace {

// Tangents of every map's outputs, into the work planes. Opens and closes with a barrier.
template <class V>
__device__ __forceinline__ void block_jvp(const Layout& l, const float* weights, const float* v,
                                          const float* tile, float* work) {
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const bool last = i == l.maps - 1;
    const Product moved = map_product(m, tile + m.input, v + m.weights, true);
    const float* carried_plane = i == 0 ? nullptr : work + l.map[i - 1].tangent;
    const Product carried = map_product(m, carried_plane, weights + m.weights, false);
    float* out = on_chip(work + m.tangent);
    const int stride = m.stride_tangent;
    const Activation activation = !last        ? l.activation
                                  : l.diagonal ? kSlopesKept
                                               : Activation::kIdentity;
    const float* slopes = tile + (last ? l.metric : m.slope);
    // p and the tangents of the inputs are written; the last tile's readers are done.
    __syncthreads();
    block_patches<V::kM>(
        m.out,
        [&](Patch& patch) {
          if (i == 0) {
            accumulate<V>(patch, moved);
          } else {
            accumulate<V>(patch, moved, carried);
          }
        },
        [&](const auto& outputs) {
          with_slope(activation, tile + m.output, slopes, [&](const float* kept, auto slope) {
            outputs.each([&](int r, int c, const auto& value) {
              put(out + r * stride + c, sloped(value, kept + r * m.stride_out + c, slope));
            });
          });
        });
    if (last) break;
    // A constant has no tangent; a candidate's forward may have left its 1 here.
    for (int r = threadIdx.x; r < l.rows; r += kThreads) out[r * stride + m.out] = 0.0f;
  }
  __syncthreads();  // J v, or M J v, is complete
}

}  // namespace
}  // namespace trpo_fast::cuda
