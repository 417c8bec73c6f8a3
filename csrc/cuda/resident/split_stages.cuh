// Stages forward, jvp and the way back of vjp in split precision: what forward.cuh, jvp.cuh and vjp.cuh
// do with FFMA, on tensor cores. Each leaves the peaks of the planes it writes for the next product.
#pragma once
#include "cuda/resident/forward.cuh"
#include "cuda/resident/split_products.cuh"

namespace trpo_fast::cuda {
namespace {

// A packed vector as words, and the peaks of its maps.
struct Words {
  const uint32_t* words;
  const uint32_t* peaks;  // [kMaxMaps, kWarps]
};

__device__ __forceinline__ Words weight_words(const Block& b) {
  return {b.weight_words, plane_peaks(b, kWeightPeaks, 0)};
}
__device__ __forceinline__ Words v_words(const Block& b) {
  return {b.v_words, plane_peaks(b, kVPeaks, 0)};
}

__device__ __forceinline__ SplitProduct split_product(const MapLayout& m, int i, const float* plane,
                                                      const uint32_t* peaks, const Words& by,
                                                      int depth) {
  const Scale x = make_scale(peaks), w = make_scale(by.peaks + i * kWarps);
  return {plane, by.words + m.weights, m.stride_in, m.stride_in, depth, x.up, x.down * w.down};
}

constexpr uint32_t kOneBits = 0x3f800000u;  // 1.0f: the constant input is among a plane's values

// As block_forward: under theta (`work` null) the planes of a tile, otherwise the work planes under a
// candidate's words. `work_peaks` are those of the work planes. Opens and closes with a barrier.
template <class Half>
__device__ TRPO_NOINLINE void block_split_forward(const Layout& l, const uint32_t* words,
                                                  const uint32_t* word_peaks, float* tile,
                                                  float* work, uint32_t* work_peaks) {
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const bool hidden = i < l.maps - 1, first = i == 0 || !work;
    __syncthreads();  // the inputs of this map are written, readers of its outputs are done
    const SplitProduct product =
        split_product(m, i, first ? tile + m.input : work + l.map[i - 1].tangent,
                      first ? tile_peaks(l, tile, i) : work_peaks + (i - 1) * kWarps,
                      {words, word_peaks}, m.in + 1);
    float* output = on_chip(work ? work + m.tangent : tile + m.output);
    float* slopes = !work && m.slope >= 0 ? tile + m.slope : nullptr;
    const int stride = work ? m.stride_tangent : m.stride_out;
    uint32_t peak = kOneBits;
    block_fragments(
        l.rows, m.out, [&](auto& f) { warp_accumulate<Half>(f, product); },
        [&](const auto& f) {
          f.each([&](int r, int c, float z) {
            float slope = 0.0f;
            const float y = hidden ? activate(l.activation, z, &slope) : z;
            output[r * stride + c] = y;
            if (slopes) slopes[r * stride + c] = slope;
            peak = max(peak, peak_of(y));
          });
        });
    if (!hidden) break;
    put_peak(work ? work_peaks + i * kWarps : tile_peaks(l, tile, i + 1), peak);
    for (int r = threadIdx.x; r < l.rows; r += kThreads) output[r * stride + m.out] = 1.0f;
  }
  __syncthreads();  // the outputs are complete
}

// As block_jvp. Opens and closes with a barrier.
template <class Half>
__device__ __forceinline__ void block_split_jvp(const Layout& l, const Block& b,
                                                const float* tile) {
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const bool last = i == l.maps - 1;
    float* out = on_chip(b.work + m.tangent);
    const int stride = m.stride_tangent;
    uint32_t peak = 0;
    __syncthreads();  // tangents of the inputs are written; the last tile's readers are done
    const SplitProduct moved =
        split_product(m, i, tile + m.input, tile_peaks(l, tile, i), v_words(b), m.in + 1);
    SplitProduct carried = {};
    if (i > 0)
      carried = split_product(m, i, b.work + l.map[i - 1].tangent,
                              plane_peaks(b, kWorkPeaks, i - 1), weight_words(b), m.in);
    const KeptSlope slope = kept_slope(last ? Activation::kIdentity : l.activation, m);
    const float* kept = on_chip(tile + slope.plane);
    block_fragments(
        l.rows, m.out,
        [&](auto& f) {
          warp_accumulate<Half>(f, moved);
          if (i > 0) warp_accumulate<Half>(f, carried);
        },
        [&](const auto& f) {
          f.each([&](int r, int c, float value) {
            const float tangent = slope(kept[r * m.stride_out + c]) * value;
            out[r * stride + c] = tangent;
            peak = max(peak, peak_of(tangent));
          });
        });
    if (last) break;
    put_peak(plane_peaks(b, kWorkPeaks, i), peak);
    // A constant has no tangent; a candidate's forward may have left its 1 here.
    for (int r = threadIdx.x; r < l.rows; r += kThreads) out[r * stride + m.out] = 0.0f;
  }
  __syncthreads();  // J v is complete
}

// One warp's piece of delta_{l-1}, 16 rows by 32 columns, times act' and stored. Returns its peak.
__device__ __forceinline__ uint32_t warp_put_deltas(const MapLayout& below, const KeptSlope& slope,
                                                    const float* tile, float* out, int row,
                                                    int column, const float (&sum)[4][4]) {
  const int group = lane_index() >> 2, pair = lane_index() & 3;
  const int width = below.out, stride = below.stride_tangent;
  const float* kept = on_chip(tile + slope.plane);
  uint32_t peak = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const bool odd = (j & 1) != (group & 1);  // half of the lanes on other banks than the rest
    const int r = row + 2 * (group & 3) + (group >> 2) + 8 * (j >> 1);
    const int c = column + 8 * pair + 4 * odd, i = j & 2;
    if (c >= width) continue;
    const float4 y = load4(kept + r * stride + c);
    float4 d = make_float4(odd ? sum[0][i + 1] : sum[0][i], odd ? sum[1][i + 1] : sum[1][i],
                           odd ? sum[2][i + 1] : sum[2][i], odd ? sum[3][i + 1] : sum[3][i]);
    d.x = slope(y.x) * d.x;  // past the last column stay the plane's zeros
    d.y = c + 1 < width ? slope(y.y) * d.y : 0.0f;
    d.z = c + 2 < width ? slope(y.z) * d.z : 0.0f;
    d.w = c + 3 < width ? slope(y.w) * d.w : 0.0f;
    store4(out + r * stride + c, d);
    peak = max(peak, max(max(peak_of(d.x), peak_of(d.y)), max(peak_of(d.z), peak_of(d.w))));
  }
  return peak;
}

// As block_deltas. Closes with a barrier.
template <class Half>
__device__ __forceinline__ void block_split_deltas(const Layout& l, const Block& b,
                                                   const float* tile) {
  for (int i = l.maps - 1; i > 0; --i) {
    const MapLayout &m = l.map[i], &below = l.map[i - 1];
    SplitProduct product = split_product(m, i, b.work + m.tangent, plane_peaks(b, kWorkPeaks, i),
                                         weight_words(b), m.out);
    product.stride_plane = m.stride_tangent;
    float* out = on_chip(b.work + below.tangent);
    const KeptSlope slope = kept_slope(l.activation, below);
    const int bands = l.rows / 16, count = bands * ceil_div(m.in, 32);
    uint32_t peak = 0;
#pragma unroll 1
    for (int piece = warp_index(); piece < count; piece += kWarps) {
      const int row = 16 * (piece % bands), column = 32 * (piece / bands);
      float sum[4][4] = {};
      warp_accumulate_back<Half>(sum, product, row, column, m.stride_in);
      peak = max(peak, warp_put_deltas(below, slope, tile, out, row, column, sum));
    }
    put_peak(plane_peaks(b, kWorkPeaks, i - 1), peak);
    __syncthreads();  // deltas of this map's inputs are complete
  }
}

}  // namespace
}  // namespace trpo_fast::cuda
