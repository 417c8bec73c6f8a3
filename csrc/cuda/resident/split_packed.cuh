// Packed vectors in split precision: theta's maps and p's as halves on chip, each map by its own power of
// two.
#pragma once
#include "cuda/resident/split.cuh"

namespace trpo_fast::cuda {
namespace {

// A packed vector as halves, and the marks of its maps, kMapMarks apart.
struct Words {
  uint32_t* words;
  uint32_t* marks;
};
__device__ __forceinline__ Words weight_words(const Block& b) {
  return {b.weight_words, plane_marks(b, kWeightPeaks, 0)};
}
__device__ __forceinline__ Words v_words(const Block& b) {
  return {b.v_words, plane_marks(b, kVPeaks, 0)};
}

constexpr int kSplitBatch = 8;  // quads of a thread that are under way together: 8192 parameters

// A thread's quads of a batch, zeros past the end of the maps.
struct QuadBatch {
  float4 quad[kSplitBatch];
  __device__ __forceinline__ void load(const float* packed, int first, int end) {
#pragma unroll
    for (int i = 0; i < kSplitBatch; ++i) {
      const int q = first + i * kThreads;
      quad[i] = q < end ? load4(packed + 4 * q) : make_float4(0, 0, 0, 0);
    }
  }
};

// Joins a batch's peak of every map to what the warp has left of earlier ones.
__device__ __forceinline__ void put_batch_peaks(const Layout& l, const QuadBatch& batch, int first,
                                                bool earlier, uint32_t* marks) {
  uint32_t peak[kSplitBatch];
#pragma unroll
  for (int i = 0; i < kSplitBatch; ++i) {
    const float4 x = batch.quad[i];
    peak[i] = max(max(peak_of(x.x), peak_of(x.y)), max(peak_of(x.z), peak_of(x.w)));
  }
  for (int map = 0; map < l.maps; ++map) {
    const MapLayout& m = l.map[map];
    const int begin = m.weights / 4, quads = m.out * m.stride_in / 4;
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < kSplitBatch; ++i)
      if (static_cast<unsigned>(first + i * kThreads - begin) < static_cast<unsigned>(quads))
        most = max(most, peak[i]);
    uint32_t* to = marks + map * kMapMarks;
    put_peak(to, earlier ? max(most, on_chip(to)[warp_index()]) : most);
  }
}

// A batch's quads of a map to their places among the halves, or the biases.
template <class Half>
__device__ __forceinline__ void put_batch(const MapLayout& m, const QuadBatch& batch, int first,
                                          uint32_t* words, float up) {
  const Halves h = map_halves(m, words);
  const int begin = m.weights / 4, quads = m.out * m.stride_in / 4;
#pragma unroll
  for (int i = 0; i < kSplitBatch; ++i) {
    const int local = first + i * kThreads - begin;
    if (static_cast<unsigned>(local) >= static_cast<unsigned>(quads)) continue;
    const float4 x = batch.quad[i];
    const int output = static_cast<int>(uint64_t{m.row_magic} * local >> 31);
    const int column = 4 * local - output * m.stride_in;
    if (column < 8 * h.chunks) {
      const int place = pair_place(output, column, h.chunks);
      put_pair<Half>(h, place, up * x.x, up * x.y);
      put_pair<Half>(h, place + 1, up * x.z, up * x.w);
    } else if (column == m.in) {
      on_chip(words)[m.bias + output] = __float_as_uint(x.x);
    }
  }
}

// Leaves what is known of a map in halves, none of whose values is above `peak`.
__device__ __forceinline__ void put_map_peak(uint32_t* marks, uint32_t peak) {
  on_chip(marks)[kWarps] = usable_exponent(exponent_of(peak));
  on_chip(marks)[kWarps + 1] = exponent_of(peak);
  on_chip(marks)[kWarps + 2] = peak;
}

// A batch to its places, by the powers of two that the marks hold.
template <class Half>
__device__ __forceinline__ void put_all_maps(const Layout& l, const QuadBatch& batch, int first,
                                             const Words& to) {
  for (int i = 0; i < l.maps; ++i) {
    const int exponent = static_cast<int>(on_chip(to.marks)[i * kMapMarks + kWarps]);
    put_batch<Half>(l.map[i], batch, first, to.words, up_of(exponent));
  }
}

// to <- packed, each map by its own power of two. Padding stays what it was, zero. Opens with a barrier;
// whoever multiplies by the words opens with another. Not inlined: three callers, rarely.
template <class Half>
__device__ TRPO_NOINLINE void block_split(const Layout& l, const float* packed, const Words& to) {
  const int end = (l.log_std >= 0 ? l.log_std : l.packed) / 4, step = kSplitBatch * kThreads;
  QuadBatch batch;
  __syncthreads();  // the packed vector is complete, readers of the last words are done
  for (int first = threadIdx.x; first < end + int(threadIdx.x); first += step) {
    batch.load(packed, first, end);
    put_batch_peaks(l, batch, first, first >= kThreads, to.marks);
  }
  __syncthreads();  // the peaks are complete
  if (int(threadIdx.x) < l.maps) {
    uint32_t* marks = to.marks + threadIdx.x * kMapMarks;
    put_map_peak(marks, joint_peak(marks));
  }
  __syncthreads();  // and so are the exponents
  for (int first = threadIdx.x; first < end; first += step) {
    if (end > step) batch.load(packed, first, end);
    put_all_maps<Half>(l, batch, first, to);
  }
}

// Whether a thread's quads of a packed vector are one batch.
__device__ __forceinline__ bool one_batch(const Layout& l) {
  return l.packed / 4 <= kSplitBatch * kThreads;
}

// The packed vectors of split precision as words. Theta's are made once in a launch, first.
template <class V>
__device__ __forceinline__ void block_split_weights(const Layout& l, const Block& b) {
  if constexpr (V::kSplit) {
    block_zero(b.weight_words, l.halves);
    block_zero(b.v_words, l.halves);
    block_split<typename V::Half>(l, b.weights, weight_words(b));
  }
}
template <class V>
__device__ __forceinline__ void block_split_v(const Layout& l, const Block& b) {
  if constexpr (V::kSplit) block_split<typename V::Half>(l, b.v, v_words(b));
}

// Whether a step of plain CG has left p in halves as well.
template <class V>
__device__ __forceinline__ bool step_splits(const Layout& l) {
  return V::kSplit && one_batch(l);
}

// The halves' marks of the next p = r + beta p, by a bound on every map's peak: that of r, which every
// warp has left, plus beta times the last p's.
__device__ __forceinline__ void block_bound_direction(const Layout& l, const Block& b, float beta) {
  constexpr float kLargest = 3.40282347e38f;
  if (int(threadIdx.x) >= l.maps) return;
  uint32_t* marks = plane_marks(b, kVPeaks, threadIdx.x);
  const float last = __uint_as_float(on_chip(marks)[kWarps + 2]);
  const float bound = fmaf(fabsf(beta), last, __uint_as_float(joint_peak(marks)));
  put_map_peak(marks, peak_of(fminf(bound, kLargest)));
}

}  // namespace
}  // namespace trpo_fast::cuda
