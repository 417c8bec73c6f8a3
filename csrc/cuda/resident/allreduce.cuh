// Sums over all blocks in an order that the shapes fix: parameter-sized vectors by slices, and a few
// doubles that every block adds up for itself.
#pragma once
#include "cuda/resident/stage.cuh"

namespace trpo_fast::cuda {
namespace {

// The quads [first, last) of a packed vector that a block reduces, and whose x it keeps.
struct Slice {
  int first, last;
};

__device__ __forceinline__ Slice own_slice(const Layout& l, const Block& b) {
  const int quads = l.packed / 4, first = min(b.index * b.slice, quads);
  return {first, min(first + b.slice, quads)};
}

__device__ __forceinline__ float4 add4(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// factor * a + b
__device__ __forceinline__ float4 axpy4(float factor, float4 a, float4 b) {
  return make_float4(fmaf(factor, a.x, b.x), fmaf(factor, a.y, b.y), fmaf(factor, a.z, b.z),
                     fmaf(factor, a.w, b.w));
}

__device__ __forceinline__ double dot4(float4 a, float4 b) {  // fp64: products of floats are exact
  return double{a.x} * b.x + double{a.y} * b.y + double{a.z} * b.z + double{a.w} * b.w;
}

__device__ __forceinline__ double dot_self(float4 a) { return dot4(a, a); }

__device__ __forceinline__ float4 swap4(float4 x, int mask) {
  return make_float4(lane_swap(x.x, mask), lane_swap(x.y, mask), lane_swap(x.z, mask),
                     lane_swap(x.w, mask));
}

constexpr int kPartialsAhead = 9;  // 144 blocks' where 16 threads lie side by side

// Threads that lie side by side over a slice; the others take other blocks' partials.
__device__ __forceinline__ int threads_aside(const Slice& slice) {
  int aside = 8;
  while (aside < slice.last - slice.first && aside < kThreads) aside *= 2;
  return aside;
}

// sink(quad, sum of all blocks' partials there) for the block's slice; each quad in one thread, one of
// the first threads_aside. Closes with no barrier: whoever writes to b.reduce next does so behind one.
template <class Sink>
__device__ __forceinline__ void block_reduce_slice(const Layout& l, const Block& b, Sink sink) {
  const Slice slice = own_slice(l, b);
  float4* staged = reinterpret_cast<float4*>(b.reduce);
  const int aside = threads_aside(slice), lane = threadIdx.x & (aside - 1);
  const int group = threadIdx.x / aside, groups = kThreads / aside, rows = min(groups, kWarps);
  for (int base = slice.first; base < slice.last; base += aside) {
    const int quad = base + lane;
    if (base > slice.first) __syncthreads();  // what was staged has been read
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int first = group; first < b.grid; first += kPartialsAhead * groups) {
      float4 part[kPartialsAhead];
#pragma unroll
      for (int i = 0; i < kPartialsAhead; ++i) {
        const int block = first + i * groups;
        part[i] = block < b.grid && quad < slice.last
                      ? load4_global(b.partials + int64_t{block} * l.packed + 4 * quad)
                      : make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < kPartialsAhead; ++i) sum = add4(sum, part[i]);
    }
#pragma unroll 1
    for (int offset = aside; offset < 32; offset *= 2) sum = add4(sum, swap4(sum, offset));
    const int row = aside < 32 ? warp_index() : group;
    if (lane_index() < aside) staged[row * aside + lane] = sum;
    __syncthreads();  // the groups' sums are staged
    if (static_cast<int>(threadIdx.x) < aside && quad < slice.last) {
      float4 total = staged[lane];
      each_loaded<7>(
          1, rows, 1, [&](int i) { return staged[i * aside + lane]; },
          [&](int, float4 part) { total = add4(total, part); });
      sink(quad, total);
    }
  }
}

// Sum of what the threads that block_reduce_slice called with a quad bring, in thread 0.
__device__ __forceinline__ double sum_of_slice(const Layout& l, const Block& b, double part) {
  if (threads_aside(own_slice(l, b)) > 32)
    return block_sum(part, reinterpret_cast<double*>(b.reduce));
  return warp_index() == 0 ? warp_sum(part) : 0.0;
}

__device__ __forceinline__ double* published(const Block& b, int region) {
  return b.published + int64_t{region} * b.grid * kScalars;
}

// Thread 0 publishes values for the other blocks to read after the next grid barrier.
template <int kCount>
__device__ __forceinline__ void publish(const Block& b, int region, const double (&value)[kCount]) {
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) published(b, region)[b.index * kScalars + i] = value[i];
}

// One number of each block, side by side: thread 0 publishes it, every thread of every block gets the sum
// of all after the next grid barrier. The sum takes two barriers of the block.
__device__ __forceinline__ void publish_dot(const Block& b, double value) {
  if (threadIdx.x == 0) published(b, kRegionDots)[b.index] = value;
}
__device__ __forceinline__ double collect_dot(const Block& b) {
  double* total = reinterpret_cast<double*>(b.reduce);
  if (warp_index() == 0) {
    double sum = 0;
    each_loaded<5>(
        lane_index(), b.grid, 32, [&](int i) { return __ldcg(published(b, kRegionDots) + i); },
        [&](int, double part) { sum += part; });
    sum = warp_sum(sum);
    if (lane_index() == 0) *total = sum;
  }
  __syncthreads();  // the sum is there
  return *total;
}

template <int kCount>
struct Scalars {
  double value[kCount];
};

// Totals of kCount consecutive scalars of every block: a warp's work, the same in all its lanes. op(i,
// a, b) adds up the i-th.
template <int kCount, class Op>
__device__ __forceinline__ Scalars<kCount> warp_totals(const double* first, int blocks, Op op) {
  Scalars<kCount> total = {};
  each_loaded<5>(
      lane_index(), blocks, 32,
      [&](int block) {
        Scalars<kCount> part;
#pragma unroll
        for (int i = 0; i < kCount; ++i) part.value[i] = __ldcg(first + block * kScalars + i);
        return part;
      },
      [&](int, const Scalars<kCount>& part) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) total.value[i] = op(i, total.value[i], part.value[i]);
      });
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    total.value[i] =
        warp_reduce<32>(total.value[i], [&](double a, double c) { return op(i, a, c); });
  return total;
}

template <int kCount>
__device__ __forceinline__ Scalars<kCount> warp_sums(const double* first, int blocks) {
  return warp_totals<kCount>(first, blocks, [](int, double a, double b) { return a + b; });
}

// Not inlined: long code with many callers.
__device__ TRPO_NOINLINE double warp_total(const double* first, int blocks) {
  return warp_sums<1>(first, blocks).value[0];
}

// Total of one published scalar, the same in every thread of every block. Every warp works it out
// for itself: no barrier.
__device__ __forceinline__ double collect(const Block& b, int region, int which) {
  return warp_total(published(b, region) + which, b.grid);
}

}  // namespace
}  // namespace trpo_fast::cuda
