// Stage jvp and the way back of vjp in split precision: what jvp.cuh and vjp.cuh do with FFMA, on tensor
// cores. Each leaves the marks of the planes it writes for the next product.
#pragma once
#include "cuda/resident/activation.cuh"
#include "cuda/resident/split_products.cuh"

namespace trpo_fast::cuda {
namespace {

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
