// Stage forward in split precision: what forward.cuh does with FFMA, on tensor cores. Leaves the marks of
// the planes it writes for the next product.
#pragma once
#include "cuda/resident/forward.cuh"
#include "cuda/resident/split_products.cuh"

namespace trpo_fast::cuda {
namespace {

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
  constexpr int kCount = 4;
  each_loaded_rows<kCount>(a, set, number, [&](const WarpRows<kCount>& rows) {
    for (int k = lane_index(); k < in; k += 32) {
      float value[kCount];
      rows.load(k, in, value);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        bad |= !usable_number(value[i]);
        peak = max(peak, peak_of(value[i]));
      }
    }
    bad |= put_weights(l, rows, tile);
  });
  put_peak(marks, peak);
  __syncthreads();  // the peaks are complete
  const int exponent = usable_exponent(peak_exponent(marks));
  put_exponents(marks, exponent);
  const Halves to = plane_halves(l, tile + l.map[0].input, in);
  const float up = up_of(exponent);
  each_loaded_rows<kCount>(a, set, number, [&](const WarpRows<kCount>& rows) {
    for (int k = 2 * lane_index(); k < 8 * to.chunks; k += 64) {
      float x[kCount], y[kCount];
      rows.load(k, in, x);
      rows.load(k + 1, in, y);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int r = rows.first + i * kWarps;
        if (r < l.rows) put_pair<Half>(to, pair_place(r, k, to.chunks), up * x[i], up * y[i]);
      }
    }
  });
  return bad;
}

// What a map of stage forward writes, and from what.
struct ForwardMap {
  SplitProduct product;
  float* output;
  int stride;
  float* slopes;        // null: not kept
  uint32_t* out_marks;  // of a hidden map's plane
  int bound;            // the exponent of its values
};

__device__ __forceinline__ ForwardMap forward_map(const Layout& l, int i, const Words& by,
                                                  float* tile, float* work, uint32_t* work_marks) {
  const MapLayout& m = l.map[i];
  const bool first = i == 0 || !work;
  const uint32_t* in_marks = first ? tile_marks(l, tile, i) : work_marks + (i - 1) * kMapMarks;
  const float* inputs = first ? tile + m.input : work + l.map[i - 1].tangent;
  int bound = max(split_bound(by, i, in_marks, m.in + 1), exponent_of(kOneBits));
  if (l.activation == Activation::kTanh && bound < 255) bound = exponent_of(kOneBits);
  return {split_product(m, i, plane_halves(l, inputs, m.in), in_marks, by, 1.0f),
          work ? work + m.tangent : tile + m.output,
          work ? m.stride_tangent : m.stride_out,
          !work && m.slope >= 0 ? tile + m.slope : nullptr,
          work ? work_marks + i * kMapMarks : tile_marks(l, tile, min(i + 1, l.maps - 1)),
          bound};
}

// The activations of a fragment, as halves, and the constant behind the last. Returns their peak.
template <class Half, int kN>
__device__ __forceinline__ uint32_t warp_activate(const Layout& l, const MapLayout& m,
                                                  const ForwardMap& to, const Fragment<kN>& f,
                                                  const Halves& plane, float up) {
  uint32_t peak = 0;
  f.each_tile([&](int t, int column) {
    const int c = column + 2 * (lane_index() & 3);
    const float* z = f.value[t];
    const Activated at = activate(l.activation, make_float4(z[0], z[1], z[2], z[3]));
    const auto put_two = [&](int r, float x, float y, float slope_x, float slope_y) {
      const auto value = [&](int k, float h, float slope) {
        if (k >= m.out) return k == m.out ? 1.0f : 0.0f;
        if (to.slopes) on_chip(to.slopes)[r * to.stride + k] = slope;
        peak = max(peak, peak_of(h));
        return h;
      };
      x = value(c, x, slope_x);
      y = value(c + 1, y, slope_y);
      put_pair<Half>(plane, pair_place(r, c, plane.chunks), x * up, y * up);
    };
    put_two(f.first_row(), at.value.x, at.value.y, at.slope.x, at.slope.y);
    put_two(f.first_row() + 8, at.value.z, at.value.w, at.slope.z, at.slope.w);
  });
  return peak;
}

// As block_forward: under theta (`work` null) the planes of a tile, otherwise the work planes under a
// candidate's words. `work_marks` are those of the work planes. Opens and closes with a barrier.
template <class Half>
__device__ TRPO_NOINLINE void block_split_forward(const Layout& l, const Words& by, float* tile,
                                                  float* work, uint32_t* work_marks) {
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    __syncthreads();  // the inputs of this map are written, readers of its outputs are done
    const ForwardMap map = forward_map(l, i, by, tile, work, work_marks);
    const bool hidden = i < l.maps - 1;
    const Halves plane = plane_halves(l, map.output, m.out);
    const int exponent = usable_exponent(map.bound);
    uint32_t peak = kOneBits;
    block_fragments(
        l.rows, hidden ? 8 * plane.chunks : m.out,
        [&](auto& f) {
          warp_begin(f, m, by, 1.0f);
          warp_accumulate<Half, false>(f, map.product);
        },
        [&](const auto& f) {
          if (hidden) {
            peak = max(peak, warp_activate<Half>(l, m, map, f, plane, up_of(exponent)));
          } else {
            warp_put_floats(f, map.output, map.stride, m.out);
          }
        });
    if (!hidden) break;
    put_peak(map.out_marks, peak);
    put_exponents(map.out_marks, exponent);
  }
  __syncthreads();  // the outputs are complete
}

}  // namespace
}  // namespace trpo_fast::cuda
