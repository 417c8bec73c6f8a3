// Split precision: a float as the sum of two 16-bit halves, so that tensor cores multiply it with
// fp32's accuracy; and the powers of two that bring a tensor into the range of its halves.
//
// A word holds value * up, rounded to 16 bits, in its low half and what the rounding left in its high
// half. Words of a packed vector lie where its floats lie. fp16 keeps 22 bits of everything within
// 2^15 of the largest value of a tensor, and below that an absolute error of 2^-38 of the largest;
// bf16 keeps 16 bits at any size. Planes of a tile stay floats and are split as they are loaded.
//
// `up` follows from the peak, the largest absolute value, as the bits of a float: those compare like
// unsigned numbers, NaN last. Every warp leaves its own, whoever multiplies takes the largest of the
// eight, so that no atomics and no barriers beside the planes' own are needed.
#pragma once
#include "cuda/prims/mma.cuh"
#include "cuda/resident/stage.cuh"

namespace trpo_fast::cuda {
namespace {

__device__ __forceinline__ uint32_t peak_of(float x) { return __float_as_uint(fabsf(x)); }

__device__ __forceinline__ void put_peak(uint32_t* slots, uint32_t peak) {
  peak = __reduce_max_sync(kFullWarp, peak);
  if (lane_index() == 0) slots[warp_index()] = peak;
}

__device__ __forceinline__ uint32_t get_peak(const uint32_t* slots) {
  const uint4 a = load4(on_chip(slots)), b = load4(on_chip(slots) + 4);
  return max(max(max(a.x, a.y), max(a.z, a.w)), max(max(b.x, b.y), max(b.z, b.w)));
}

__device__ __forceinline__ uint32_t* plane_peaks(const Block& b, PeakSet set, int map) {
  return b.peaks + (set * kMaxMaps + map) * kWarps;
}

__device__ __forceinline__ uint32_t* tile_peaks(const Layout& l, float* tile, int map) {
  return reinterpret_cast<uint32_t*>(tile + l.peaks) + map * kWarps;
}
__device__ __forceinline__ const uint32_t* tile_peaks(const Layout& l, const float* tile, int map) {
  return reinterpret_cast<const uint32_t*>(tile + l.peaks) + map * kWarps;
}

// up * the peak lies in [2^13, 2^14), below fp16's 65504. 1 where no power of two would help.
struct Scale {
  float up, down;  // down = 1 / up
};

__device__ __forceinline__ Scale make_scale(const uint32_t* slots) {
  const uint32_t peak = get_peak(slots);
  if (peak == 0 || peak >= 0x7f800000u) return {1.0f, 1.0f};
  const uint32_t exponent = max(peak >> 23, 30u);  // 254 at most: both powers are normal numbers
  return {__uint_as_float((267u - exponent) << 23), __uint_as_float((exponent - 13u) << 23)};
}

// Two words of one value each -> the low halves, and the high halves, of both.
__device__ __forceinline__ uint32_t low_halves(uint32_t x, uint32_t y) {
  return __byte_perm(x, y, 0x5410);
}
__device__ __forceinline__ uint32_t high_halves(uint32_t x, uint32_t y) {
  return __byte_perm(x, y, 0x7632);
}

template <class Half>
__device__ __forceinline__ uint4 make_words(float4 x, float up) {
  uint32_t high[2], low[2];
  Split16<Half>::split(x.x * up, x.y * up, &high[0], &low[0]);
  Split16<Half>::split(x.z * up, x.w * up, &high[1], &low[1]);
  return make_uint4(low_halves(high[0], low[0]), high_halves(high[0], low[0]),
                    low_halves(high[1], low[1]), high_halves(high[1], low[1]));
}

// words <- packed, each map by its own power of two; peaks [kMaxMaps, kWarps]. Opens with a barrier;
// whoever multiplies by the words opens with another. Not inlined: three callers, rarely.
template <class Half>
__device__ TRPO_NOINLINE void block_split(const Layout& l, const float* packed, uint32_t* words,
                                          uint32_t* peaks) {
  __syncthreads();  // the packed vector is complete, readers of the last words are done
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    uint32_t peak = 0;
    each_loaded<4>(
        threadIdx.x, m.out * m.stride_in / 4, kThreads,
        [&](int q) { return load4_global(packed + m.weights + 4 * q); },
        [&](int, float4 x) {
          peak = max(peak, max(max(peak_of(x.x), peak_of(x.y)), max(peak_of(x.z), peak_of(x.w))));
        });
    put_peak(peaks + i * kWarps, peak);
  }
  __syncthreads();  // the peaks are complete
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const float up = make_scale(peaks + i * kWarps).up;
    each_loaded<4>(
        threadIdx.x, m.out * m.stride_in / 4, kThreads,
        [&](int q) { return load4_global(packed + m.weights + 4 * q); },
        [&](int q, float4 x) {
          store4(on_chip(words) + m.weights + 4 * q, make_words<Half>(x, up));
        });
  }
}

// The packed vectors of split precision as words.
template <class V>
__device__ __forceinline__ void block_split_weights(const Layout& l, const Block& b) {
  if constexpr (V::kSplit)
    block_split<typename V::Half>(l, b.weights, b.weight_words, plane_peaks(b, kWeightPeaks, 0));
}
template <class V>
__device__ __forceinline__ void block_split_v(const Layout& l, const Block& b) {
  if constexpr (V::kSplit)
    block_split<typename V::Half>(l, b.v, b.v_words, plane_peaks(b, kVPeaks, 0));
}

}  // namespace
}  // namespace trpo_fast::cuda
