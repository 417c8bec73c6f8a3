// Stages forward, jvp and the way back of vjp in split precision: what forward.cuh, jvp.cuh and vjp.cuh
// do with FFMA, on tensor cores. Each leaves the marks of the planes it writes for the next product.
#pragma once
#include "cuda/resident/forward.cuh"
#include "cuda/resident/split_products.cuh"

namespace trpo_fast::cuda {
namespace {

__device__ __forceinline__ int map_peak_exponent(const Words& by, int i) {
  return static_cast<int>(on_chip(by.marks)[i * kMapMarks + kWarps + 1]);
}

// A plane of map i's inputs, or of its outputs' deltas on the way back, times the map.
__device__ __forceinline__ SplitProduct split_product(const MapLayout& m, int i,
                                                      const Halves& plane, const uint32_t* marks,
                                                      const Words& by) {
  const float down = down_of(band_exponent(by.marks + i * kMapMarks, 0));
  return {plane, map_halves(m, by.words), plane.chunks / 2, m.out, marks, down};
}

// A bound of that product.
__device__ __forceinline__ int split_bound(const Words& by, int i, const uint32_t* marks,
                                           int terms) {
  return product_exponent(map_peak_exponent(by, i), peak_exponent(marks), terms);
}

// Sums begin at the biases that the halves have no room for, elsewhere at zero.
template <int kN>
__device__ __forceinline__ void warp_begin(Fragment<kN>& f, const MapLayout& m, const Words& by) {
  const float* bias = on_chip(reinterpret_cast<const float*>(by.words) + m.bias);
#pragma unroll
  for (int t = 0; t < kN; ++t) {
    const float2 x = load2(bias + f.column + 8 * t + 2 * (lane_index() & 3));
    f.value[t][0] = f.value[t][2] = x.x;
    f.value[t][1] = f.value[t][3] = x.y;
  }
}

constexpr uint32_t kOneBits = 0x3f800000u;  // 1.0f: the constant input is among a plane's values

// Observations of a tile as halves, otherwise as block_load_rows. Read twice: their power of two must be
// known first. Closes with no barrier.
template <class Half>
__device__ __forceinline__ int block_load_halves(const KernelArgs& a, const RowSet& set,
                                                 int64_t number, float* tile) {
  const Layout& l = a.layout;
  const int in = l.map[0].in;
  uint32_t* marks = tile_marks(l, tile, 0);
  int bad = 0;
  uint32_t peak = kOneBits;
  each_loaded_row(a, set, number, [&](int r, const float* obs, float w) {
    for (int k = lane_index(); obs && k < in; k += 32) {
      const float value = obs[k];
      bad |= !usable_number(value);
      peak = max(peak, peak_of(value));
    }
    if (lane_index() != 0) return;
    tile[l.row_weights + r] = w > 0.0f ? w : 0.0f;
    bad |= !usable_weight(w);
  });
  put_peak(marks, peak);
  __syncthreads();  // the peaks are complete
  const int exponent = usable_exponent(peak_exponent(marks));
  put_exponents(marks, exponent);
  const Halves to = plane_halves(l, tile + l.map[0].input, in);
  const float up = up_of(exponent);
  each_loaded_row(a, set, number, [&](int r, const float* obs, float) {
    const auto value = [&](int k) { return k == in ? 1.0f : obs && k < in ? obs[k] : 0.0f; };
    for (int k = 2 * lane_index(); k < 8 * to.chunks; k += 64)
      put_pair<Half>(to, pair_place(r, k, to.chunks), value(k), value(k + 1), up);
  });
  return bad;
}

// As block_forward: under theta (`work` null) the planes of a tile, otherwise the work planes under a
// candidate's words. `work_marks` are those of the work planes. Opens and closes with a barrier.
template <class Half>
__device__ TRPO_NOINLINE void block_split_forward(const Layout& l, const Words& by, float* tile,
                                                  float* work, uint32_t* work_marks) {
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const bool hidden = i < l.maps - 1, first = i == 0 || !work;
    __syncthreads();  // the inputs of this map are written, readers of its outputs are done
    const uint32_t* in_marks = first ? tile_marks(l, tile, i) : work_marks + (i - 1) * kMapMarks;
    const float* inputs = first ? tile + m.input : work + l.map[i - 1].tangent;
    const SplitProduct product = split_product(m, i, plane_halves(l, inputs, m.in), in_marks, by);
    float* output = work ? work + m.tangent : tile + m.output;
    float* slopes = !work && m.slope >= 0 ? tile + m.slope : nullptr;
    const int stride = work ? m.stride_tangent : m.stride_out;
    const Halves to = plane_halves(l, output, m.out);
    int bound = max(split_bound(by, i, in_marks, m.in + 1), exponent_of(kOneBits));
    if (l.activation == Activation::kTanh && bound < 255) bound = exponent_of(kOneBits);
    const int exponent = usable_exponent(bound);
    const float up = up_of(exponent);
    uint32_t peak = kOneBits;
    const auto hidden_value = [&](int r, int c, float z) {
      if (c >= m.out) return c == m.out ? 1.0f : 0.0f;
      float slope = 0.0f;
      const float y = activate(l.activation, z, &slope);
      if (slopes) on_chip(slopes)[r * stride + c] = slope;
      peak = max(peak, peak_of(y));
      return y;
    };
    block_fragments(
        l.rows, hidden ? 8 * to.chunks : m.out,
        [&](auto& f) {
          warp_begin(f, m, by);
          warp_accumulate<Half, false>(f, product);
        },
        [&](const auto& f) {
          f.each_pair([&](int r, int c, float x, float y) {
            if (hidden) {
              const float first = hidden_value(r, c, x), second = hidden_value(r, c + 1, y);
              put_pair<Half>(to, pair_place(r, c, to.chunks), first, second, up);
            } else {
              on_chip(output)[r * stride + c] = x;
              if (c + 1 < m.out) on_chip(output)[r * stride + c + 1] = y;
            }
          });
        });
    if (!hidden) break;
    uint32_t* marks = work ? work_marks + i * kMapMarks : tile_marks(l, tile, i + 1);
    put_peak(marks, peak);
    put_exponents(marks, exponent);
  }
  __syncthreads();  // the outputs are complete
}

// Tangents or deltas of a hidden map's outputs: act' times what fill(fragment) computes, as halves. `bound`
// is an exponent of that. No barrier.
template <class Half, class Fill>
__device__ __forceinline__ void block_put_sloped(const Layout& l, const Block& b, const float* tile,
                                                 int i, int bound, Fill fill) {
  const MapLayout& m = l.map[i];
  const Halves to = plane_halves(l, b.work + m.tangent, m.out);
  const Halves kept = plane_halves(l, tile + m.output, m.out);
  const float* slopes = m.slope >= 0 ? on_chip(tile + m.slope) : nullptr;
  const KeptSlope slope = kept_slope(l.activation, m);
  const float down = down_of(band_exponent(tile_marks(l, tile, i + 1), 0));
  const int exponent = usable_exponent(bound);
  const float up = up_of(exponent);
  uint32_t peak = 0;
  block_fragments(l.rows, 8 * to.chunks, fill, [&](const auto& f) {
    f.each_pair([&](int r, int c, float x, float y) {
      const int place = pair_place(r, c, to.chunks);
      const float2 h = slopes ? load2(slopes + r * m.stride_out + min(c, m.stride_out - 2))
                              : get_pair<Half>(kept, place, down);
      x = c < m.out ? slope(h.x) * x : 0.0f;  // a constant has no tangent
      y = c + 1 < m.out ? slope(h.y) * y : 0.0f;
      peak = max(peak, max(peak_of(x), peak_of(y)));
      put_pair<Half>(to, place, x, y, up);
    });
  });
  uint32_t* marks = plane_marks(b, kWorkPeaks, i);
  put_peak(marks, peak);
  put_exponents(marks, exponent);
}

// As block_jvp. Opens and closes with a barrier.
template <class Half>
__device__ __forceinline__ void block_split_jvp(const Layout& l, const Block& b,
                                                const float* tile) {
  const Words v = v_words(b), theta = weight_words(b);
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    __syncthreads();  // tangents of the inputs are written; the last tile's readers are done
    const uint32_t* marks = tile_marks(l, tile, i);
    const SplitProduct moved = split_product(m, i, plane_halves(l, tile + m.input, m.in), marks, v);
    int bound = split_bound(v, i, marks, m.in + 1);
    SplitProduct carried = {};
    if (i > 0) {
      marks = plane_marks(b, kWorkPeaks, i - 1);
      carried =
          split_product(m, i, plane_halves(l, b.work + l.map[i - 1].tangent, m.in), marks, theta);
      bound = max(bound, split_bound(theta, i, marks, m.in));
      bound = min(bound + 1, 255);
    }
    const auto fill = [&](auto& f) {
      warp_begin(f, m, v);
      warp_accumulate<Half, false>(f, moved);
      if (i > 0) warp_accumulate<Half, false>(f, carried);
    };
    if (i < l.maps - 1) {
      block_put_sloped<Half>(l, b, tile, i, bound, fill);
      continue;
    }
    float* out = on_chip(b.work + m.tangent);
    block_fragments(l.rows, m.out, fill, [&](const auto& f) {
      f.each_pair([&](int r, int c, float x, float y) {
        out[r * m.stride_tangent + c] = x;
        if (c + 1 < m.out) out[r * m.stride_tangent + c + 1] = y;
      });
    });
  }
  __syncthreads();  // J v is complete
}

// As block_deltas. Closes with a barrier.
template <class Half>
__device__ __forceinline__ void block_split_deltas(const Layout& l, const Block& b,
                                                   const float* tile) {
  const Words theta = weight_words(b);
  for (int i = l.maps - 1; i > 0; --i) {
    const MapLayout& m = l.map[i];
    const uint32_t* marks = plane_marks(b, kWorkPeaks, i);
    const SplitProduct back =
        split_product(m, i, plane_halves(l, b.work + m.deltas, m.out), marks, theta);
    block_put_sloped<Half>(l, b, tile, i - 1, split_bound(theta, i, marks, m.out),
                           [&](auto& f) { warp_accumulate<Half, true>(f, back); });
    __syncthreads();  // deltas of this map's inputs are complete
  }
}

}  // namespace
}  // namespace trpo_fast::cuda
