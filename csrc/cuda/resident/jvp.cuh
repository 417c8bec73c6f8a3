// Stage jvp: dh_l = act'(h_l) * (V_l h_{l-1} + v_l + W_l dh_{l-1}) through a tile's planes.
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
    const int quads = row_quads(m.in);
    const Product moved = {tile + m.input, v + m.weights, m.stride_in, m.stride_in, quads};
    const float* carried_plane = i == 0 ? nullptr : work + l.map[i - 1].tangent;
    const Product carried = {carried_plane, weights + m.weights, m.stride_in, m.stride_in, quads};
    float* out = on_chip(work + m.tangent);
    const int stride = m.stride_tangent;
    const Activation activation = i == l.maps - 1 ? Activation::kIdentity : l.activation;
    // p and the tangents of the inputs are written; the last tile's readers are done.
    __syncthreads();
    block_patches<V::kM>(
        m.out,
        [&](auto& patch) {
          accumulate<V>(patch, moved);
          if (i > 0) accumulate<V>(patch, carried);
        },
        [&](const auto& patch) {
          with_slope(activation, m, tile, [&](const float* kept, auto slope) {
            patch.each([&](int r, int c, float value) {
              out[r * stride + c] = slope(kept[r * m.stride_out + c]) * value;
            });
          });
        });
    if (i == l.maps - 1) break;
    // A constant has no tangent; a candidate's forward may have left its 1 here.
    for (int r = threadIdx.x; r < l.rows; r += kThreads) out[r * stride + m.out] = 0.0f;
  }
  __syncthreads();  // J v is complete
}

}  // namespace
}  // namespace trpo_fast::cuda
