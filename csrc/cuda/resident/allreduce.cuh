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
  const int quads = l.packed / 4, each = ceil_div(quads, b.grid);
  const int first = min(b.index * each, quads);
  return {first, min(first + each, quads)};
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

// sink(quad, sum of all blocks' partials there) for the block's slice; each quad in one thread.
// Groups of threads add up every n-th partial, then one thread adds the groups in order. Closes with
// no barrier: in a slice of more than 256 quads there is one group and every thread reads what it
// staged itself; whoever writes to b.reduce next does so behind a barrier.
template <class Sink>
__device__ __forceinline__ void block_reduce_slice(const Layout& l, const Block& b, Sink sink) {
  const Slice slice = own_slice(l, b);
  float4* staged = reinterpret_cast<float4*>(b.reduce);
  const int width = min(slice.last - slice.first, kThreads);
  if (width <= 0) return;
  const int groups = min(kThreads / width, b.grid);
  const int lane = threadIdx.x % width, group = threadIdx.x / width;
  for (int base = slice.first; base < slice.last; base += width) {
    const int quad = base + lane;
    if (group < groups && quad < slice.last) {
      float4 sum = make_float4(0, 0, 0, 0);
      each_loaded<8>(
          group, b.grid, groups,
          [&](int i) { return load4_global(b.partials + int64_t{i} * l.packed + 4 * quad); },
          [&](int, float4 part) { sum = add4(sum, part); });
      staged[group * width + lane] = sum;
    }
    __syncthreads();  // the groups' sums are staged
    if (group == 0 && quad < slice.last) {
      float4 sum = staged[lane];
      each_loaded<8>(
          1, groups, 1, [&](int i) { return staged[i * width + lane]; },
          [&](int, float4 part) { sum = add4(sum, part); });
      sink(quad, sum);
    }
  }
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
