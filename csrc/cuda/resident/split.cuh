// Split precision: a float as the sum of two 16-bit halves, so that tensor cores multiply it with
// fp32's accuracy; and the powers of two that bring a tensor into the range of its halves.
//
// value * up, rounded to 16 bits, is the high half, and what the rounding left the low half. fp16 keeps
// 22 bits of everything within 2^17 of the top of its range, and below that an absolute error of 2^-38
// of the top; bf16 keeps 16 bits at any size. Planes and maps on chip are kept as halves (layout.h).
//
// `up` is written as an exponent, that of the largest absolute value a plane can have. Whoever writes a
// plane knows a bound before its first value: the sizes of a product's operands, and how many terms it
// sums. A bound that is 2^k too large costs k bits of the absolute error alone, no more than the product
// itself has lost among its terms. Every warp leaves the peak of what it wrote, so that bounds of later
// planes start from sizes, not from bounds: no atomics, and no barriers beside the planes' own.
#pragma once
#include "cuda/prims/mma.cuh"
#include "cuda/resident/stage.cuh"

namespace trpo_fast::cuda {
namespace {

// ---- sizes. A peak is an absolute value as the bits of a float: those compare like unsigned numbers, NaN
// last. The marks of a plane are its warps' peaks, then the exponents of its bands of 16 rows; those of
// a map in halves: the peaks, its exponent, the exponent of its peak, and the peak or a bound of it.

__device__ __forceinline__ uint32_t peak_of(float x) { return __float_as_uint(fabsf(x)); }

__device__ __forceinline__ uint32_t* plane_marks(const Block& b, PeakSet set, int map) {
  return b.peaks + map * kMapMarks + set * kMarks;
}
__device__ __forceinline__ uint32_t* tile_marks(const Layout& l, float* tile, int map) {
  return reinterpret_cast<uint32_t*>(tile + l.peaks) + map * kMarks;
}
__device__ __forceinline__ const uint32_t* tile_marks(const Layout& l, const float* tile, int map) {
  return reinterpret_cast<const uint32_t*>(tile + l.peaks) + map * kMarks;
}

// Leaves the warp's peak, and returns it.
__device__ __forceinline__ uint32_t put_peak(uint32_t* marks, uint32_t peak) {
  peak = __reduce_max_sync(kFullWarp, peak);
  if (lane_index() == 0) on_chip(marks)[warp_index()] = peak;
  return peak;
}

__device__ __forceinline__ int exponent_of(uint32_t peak) { return static_cast<int>(peak >> 23); }

__device__ __forceinline__ uint32_t joint_peak(const uint32_t* marks) {
  const uint4 a = load4(on_chip(marks)), b = load4(on_chip(marks) + 4);
  return max(max(max(a.x, a.y), max(a.z, a.w)), max(max(b.x, b.y), max(b.z, b.w)));
}
__device__ __forceinline__ int peak_exponent(const uint32_t* marks) {
  return exponent_of(joint_peak(marks));
}

// What is kept as `up`: its powers of two are normal numbers; 1 where no power of two would help.
__device__ __forceinline__ int usable_exponent(int exponent) {
  return exponent >= 255 ? 140 : min(max(exponent, 30), 254);
}
__device__ __forceinline__ float up_of(int exponent) {  // brings 2^exponent to 2^13
  return __uint_as_float(static_cast<uint32_t>(267 - exponent) << 23);
}
__device__ __forceinline__ float down_of(int exponent) {
  return __uint_as_float(static_cast<uint32_t>(exponent - 13) << 23);
}

// A bound on the exponent of sums of `terms` products; 255 where an operand is not finite.
__device__ __forceinline__ int product_exponent(int a, int b, int terms) {
  if (max(a, b) == 255) return 255;
  return min(max(a + b - 126 + 32 - __clz(terms - 1), 1), 254);
}

__device__ __forceinline__ void put_exponents(uint32_t* marks, int exponent) {
  if (threadIdx.x < kBands) on_chip(marks)[kWarps + threadIdx.x] = exponent;
}
__device__ __forceinline__ int band_exponent(const uint32_t* marks, int band) {
  return static_cast<int>(on_chip(marks)[kWarps + band]);
}

// ---- halves in shared memory

// Rows of chunks, the high halves of all rows and, `low` words later, the low ones.
struct Halves {
  uint32_t* at;
  int low;
  int chunks;  // of a row
};

__device__ __forceinline__ Halves plane_halves(const Layout& l, const float* plane, int width) {
  const int chunks = half_chunks(width);
  return {reinterpret_cast<uint32_t*>(const_cast<float*>(plane)), 4 * l.rows * chunks, chunks};
}
__device__ __forceinline__ Halves map_halves(const MapLayout& m, uint32_t* packed) {
  const int chunks = half_chunks(m.in);
  return {packed + m.halves, 4 * ((m.out + 7) & ~7) * chunks, chunks};
}

// The chunk of a row where chunk number c is: c ^ turn. Chunks of eight rows that follow one another, the
// first a multiple of eight, are then on different banks.
__device__ __forceinline__ int chunk_turn(int row, int chunks) {
  return (row & 7) * min(chunks & -chunks, 8) >> 3;
}

// The word of columns `column` (even) and column + 1.
__device__ __forceinline__ int pair_place(int row, int column, int chunks) {
  return 4 * (row * chunks + (column >> 3 ^ chunk_turn(row, chunks))) + (column >> 1 & 3);
}

// Two values, scaled already.
template <class Half>
__device__ __forceinline__ void put_pair(const Halves& h, int place, float x, float y) {
  uint32_t high, low;
  Split16<Half>::split(x, y, &high, &low);
  on_chip(h.at)[place] = high;
  on_chip(h.at)[place + h.low] = low;
}
template <class Half>
__device__ __forceinline__ float2 get_pair(const Halves& h, int place, float down) {
  const float2 high = Half::unpack(on_chip(h.at)[place]);
  const float2 low = Half::unpack(on_chip(h.at)[place + h.low]);
  return make_float2((high.x + low.x) * down, (high.y + low.y) * down);
}
template <class Half>
__device__ __forceinline__ float get_half(const Halves& h, int row, int column, float down) {
  const float2 both = get_pair<Half>(h, pair_place(row, column & ~1, h.chunks), down);
  return column & 1 ? both.y : both.x;
}

// A thread's share of a row, where all of the block's threads lie side by side over a tile's rows: every
// so many columns a pair. A warp's rows are of one band.
struct RowShare {
  int row, first, step;
};
__device__ __forceinline__ RowShare row_share(const Layout& l) {
  const int aside = kThreads >> l.row_shift, thread = threadIdx.x;
  return {(thread << l.row_shift) / kThreads, 2 * (thread & (aside - 1)), 2 * aside};
}

// The deltas of the outputs as halves, from the floats in the last work plane: of those, a thread has read
// the share of row_share or written it, or they lie behind a barrier. Takes one barrier.
template <class Half>
__device__ __forceinline__ void put_output_deltas(const Layout& l, const Block& b) {
  const MapLayout& m = l.map[l.maps - 1];
  const RowShare at = row_share(l);
  const float* row = on_chip(b.work + m.tangent + at.row * m.stride_tangent);
  uint32_t* marks = plane_marks(b, kWorkPeaks, l.maps - 1);
  const auto value = [&](int i) { return i < l.outputs ? row[i] : 0.0f; };
  uint32_t peak = 0;
#pragma unroll 1
  for (int i = at.first; i < l.outputs; i += at.step)
    peak = max(peak, max(peak_of(value(i)), peak_of(value(i + 1))));
  put_peak(marks, peak);
  __syncthreads();                                      // the peaks are complete
  const int warps = kBandRows * kWarps >> l.row_shift;  // of a band
  const int first = warp_index() & -warps;
  peak = __reduce_max_sync(kFullWarp, on_chip(marks)[first + (lane_index() & (warps - 1))]);
  const int exponent = usable_exponent(exponent_of(peak));
  if (at.row % kBandRows == 0 && at.first == 0)
    on_chip(marks)[kWarps + at.row / kBandRows] = exponent;
  const Halves to = plane_halves(l, b.work + m.deltas, m.out);
  const float up = up_of(exponent);
#pragma unroll 1
  for (int i = at.first; i < 8 * to.chunks; i += at.step)
    put_pair<Half>(to, pair_place(at.row, i, to.chunks), up * value(i), up * value(i + 1));
}

}  // namespace
}  // namespace trpo_fast::cuda
