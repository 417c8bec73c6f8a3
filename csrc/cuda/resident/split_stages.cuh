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

// A plane of map i's inputs, or of its outputs' deltas on the way back, times the map, times `up`.
__device__ __forceinline__ SplitProduct split_product(const MapLayout& m, int i,
                                                      const Halves& plane, const uint32_t* marks,
                                                      const Words& by, float up) {
  const float scale = up * down_of(band_exponent(by.marks + i * kMapMarks, 0));
  return {plane, map_halves(m, by.words), plane.chunks / 2, m.out, marks, scale};
}

// A bound of that product.
__device__ __forceinline__ int split_bound(const Words& by, int i, const uint32_t* marks,
                                           int terms) {
  return product_exponent(map_peak_exponent(by, i), peak_exponent(marks), terms);
}

// Sums begin at the biases that the halves have no room for, times `up`; elsewhere at zero.
template <int kN>
__device__ __forceinline__ void warp_begin(Fragment<kN>& f, const MapLayout& m, const Words& by,
                                           float up) {
  const float* bias = on_chip(reinterpret_cast<const float*>(by.words) + m.bias);
#pragma unroll
  for (int t = 0; t < kN; ++t) {
    const float2 x = load2(bias + f.column + 8 * t + 2 * (lane_index() & 3));
    f.value[t][0] = f.value[t][2] = up * x.x;
    f.value[t][1] = f.value[t][3] = up * x.y;
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
      put_pair<Half>(to, pair_place(r, k, to.chunks), up * value(k), up * value(k + 1));
  });
  return bad;
}

// Floats of a fragment to the last plane.
template <int kN>
__device__ __forceinline__ void warp_put_floats(const Fragment<kN>& f, float* plane, int stride,
                                                int width) {
  const int pair = 2 * (lane_index() & 3);
  float* to = on_chip(plane + f.first_row() * stride);
  f.each_tile([&](int t, int column) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int c = column + pair + (i & 1);
      if (c < width) to[(i & 2) * 4 * stride + c] = f.value[t][i];
    }
  });
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
  const auto value = [&](int r, int c, float z) {
    if (c >= m.out) return c == m.out ? 1.0f : 0.0f;
    float slope = 0.0f;
    const float y = activate(l.activation, z, &slope);
    if (to.slopes) on_chip(to.slopes)[r * to.stride + c] = slope;
    peak = max(peak, peak_of(y));
    return y;
  };
  f.each_tile([&](int t, int column) {
    const int c = column + 2 * (lane_index() & 3);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int r = f.first_row() + 4 * i;
      const float x = value(r, c, f.value[t][i]), y = value(r, c + 1, f.value[t][i + 1]);
      put_pair<Half>(plane, pair_place(r, c, plane.chunks), x * up, y * up);
    }
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

// Where tangents or deltas of a hidden map's outputs go, and act' from what the tile keeps of them.
struct SlopedPlane {
  Halves to;
  const uint32_t* kept;  // halves of the activations, as `to`
  const float* slopes;   // or null
  int width, stride_slopes;
  SlopeCurve curve;  // at values as they are kept
};

__device__ __forceinline__ SlopedPlane sloped_plane(const Layout& l, const Block& b,
                                                    const float* tile, int i) {
  const MapLayout& m = l.map[i];
  const bool kept = m.slope < 0;
  const float down = kept ? down_of(band_exponent(tile_marks(l, tile, i + 1), 0)) : 1.0f;
  SlopeCurve curve = slope_curve(l.activation);
  curve.c1 *= down;
  curve.c2 *= down * down;
  return {plane_halves(l, b.work + m.tangent, m.out),
          on_chip(reinterpret_cast<const uint32_t*>(tile + m.output)),
          kept ? nullptr : on_chip(tile + m.slope),
          m.out,
          m.stride_out,
          curve};
}

// act' of a fragment's columns. Of columns past the width it is some number.
template <class Half, int kN>
__device__ __forceinline__ void warp_slopes(const SlopedPlane& p, const Fragment<kN>& f,
                                            const int (&place)[kN], float (&slope)[kN][4]) {
  if (p.slopes) {
    const int last = p.stride_slopes - 2, pair = 2 * (lane_index() & 3);
    const float* from = p.slopes + f.first_row() * p.stride_slopes;
#pragma unroll
    for (int t = 0; t < kN; ++t)
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const int c = min(f.column + 8 * t + pair, last);
        const float2 y = load2(from + 4 * i * p.stride_slopes + c);
        slope[t][i] = y.x;
        slope[t][i + 1] = y.y;
      }
    return;
  }
  uint32_t high[kN][2], low[kN][2];
#pragma unroll
  for (int t = 0; t < kN; ++t)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      high[t][i] = p.kept[place[t] + 32 * i * p.to.chunks];
      low[t][i] = p.kept[place[t] + 32 * i * p.to.chunks + p.to.low];
    }
#pragma unroll
  for (int t = 0; t < kN; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 h = Half::unpack(high[t][i >> 1]), r = Half::unpack(low[t][i >> 1]);
      const float y = i & 1 ? h.y + r.y : h.x + r.x;
      slope[t][i] = __saturatef(fmaf(fmaf(p.curve.c2, y, p.curve.c1), y, p.curve.c0));
    }
}

// act' times a fragment, which is in the plane's scale already, as halves. Returns the peak, in that scale.
template <class Half, int kN>
__device__ __forceinline__ uint32_t warp_put_sloped(const SlopedPlane& p, const Fragment<kN>& f) {
  const int pair = lane_index() & 3, row = f.first_row(), chunks = p.to.chunks;
  const int turn = chunk_turn(row, chunks), first = 4 * row * chunks + pair;
  int place[kN];
  float slope[kN][4];
#pragma unroll
  for (int t = 0; t < kN; ++t) place[t] = first + 4 * (min((f.column >> 3) + t, chunks - 1) ^ turn);
  warp_slopes<Half>(p, f, place, slope);
#pragma unroll
  for (int t = 0; t < kN; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) slope[t][i] *= f.value[t][i];
  if (p.width % 32 != 0) {  // a constant has no tangent
    const int rest = p.width - f.column - 2 * pair;
#pragma unroll
    for (int t = 0; t < kN; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (8 * t + (i & 1) >= rest) slope[t][i] = 0.0f;
  }
  uint32_t peak = 0;
#pragma unroll
  for (int t = 0; t < kN; ++t)
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      peak = max(peak, max(peak_of(slope[t][i]), peak_of(slope[t][i + 1])));
      if (f.column + 8 * t < 8 * chunks)
        put_pair<Half>(p.to, place[t] + 16 * i * chunks, slope[t][i], slope[t][i + 1]);
    }
  return peak;
}

// Tangents or deltas of a hidden map's outputs: act' times what fill(fragment) computes, as halves, in the
// scale of `exponent`. No barrier.
template <class Half, class Fill>
__device__ __forceinline__ void block_put_sloped(const Layout& l, const Block& b, const float* tile,
                                                 int i, int exponent, Fill fill) {
  const SlopedPlane plane = sloped_plane(l, b, tile, i);
  uint32_t peak = 0;
  block_fragments(l.rows, 8 * plane.to.chunks, fill,
                  [&](const auto& f) { peak = max(peak, warp_put_sloped<Half>(plane, f)); });
  uint32_t* marks = plane_marks(b, kWorkPeaks, i);
  put_peak(marks, peak_of(__uint_as_float(peak) * down_of(exponent)));
  put_exponents(marks, exponent);
}

// As block_jvp. Opens and closes with a barrier.
template <class Half>
__device__ __forceinline__ void block_split_jvp(const Layout& l, const Block& b,
                                                const float* tile) {
  const Words v = v_words(b), theta = weight_words(b);
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const bool last = i == l.maps - 1;
    __syncthreads();  // tangents of the inputs are written; the last tile's readers are done
    const uint32_t* marks = tile_marks(l, tile, i);
    const uint32_t* below = plane_marks(b, kWorkPeaks, i > 0 ? i - 1 : 0);
    int exponent = 140;
    if (!last) {
      const int bound = split_bound(v, i, marks, m.in + 1);
      const int carried = i > 0 ? split_bound(theta, i, below, m.in) : 0;
      exponent = usable_exponent(i > 0 ? max(bound, carried) + 1 : bound);
    }
    const float up = up_of(exponent);
    const SplitProduct moved =
        split_product(m, i, plane_halves(l, tile + m.input, m.in), marks, v, up);
    SplitProduct carried = {};
    if (i > 0)
      carried = split_product(m, i, plane_halves(l, b.work + l.map[i - 1].tangent, m.in), below,
                              theta, up);
    const auto fill = [&](auto& f) {
      warp_begin(f, m, v, up);
      warp_accumulate<Half, false>(f, moved);
      if (i > 0) warp_accumulate<Half, false>(f, carried);
    };
    if (!last) {
      block_put_sloped<Half>(l, b, tile, i, exponent, fill);
      continue;
    }
    block_fragments(l.rows, m.out, fill, [&](const auto& f) {
      warp_put_floats(f, b.work + m.tangent, m.stride_tangent, m.out);
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
    const int exponent = usable_exponent(split_bound(theta, i, marks, m.out));
    const SplitProduct back = split_product(m, i, plane_halves(l, b.work + m.deltas, m.out), marks,
                                            theta, up_of(exponent));
    block_put_sloped<Half>(l, b, tile, i - 1, exponent, [&](auto& f) {
#pragma unroll
      for (auto& tile : f.value) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
      warp_accumulate<Half, true>(f, back);
    });
    __syncthreads();  // deltas of this map's inputs are complete
  }
}

}  // namespace
}  // namespace trpo_fast::cuda
