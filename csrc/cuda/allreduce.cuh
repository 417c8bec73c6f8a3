// Sums over all blocks in an order that the shapes fix: parameter-sized vectors by slices, and a few
// doubles that every block adds up for itself.
#pragma once
#include "cuda/stage.cuh"

namespace trpo_fast {
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
#pragma unroll 4
      for (int i = group; i < b.grid; i += groups)
        sum = add4(sum, load4_global(b.partials + int64_t{i} * l.packed + 4 * quad));
      staged[group * width + lane] = sum;
    }
    __syncthreads();  // the groups' sums are staged
    if (group == 0 && quad < slice.last) {
      float4 sum = staged[lane];
      for (int i = 1; i < groups; ++i) sum = add4(sum, staged[i * width + lane]);
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

// Total of one scalar of every block: a warp's work, the same in all its lanes. Not inlined: long
// code with many callers.
template <class Op>
__device__ TRPO_NOINLINE double warp_total(const double* first, int blocks) {
  double total = 0;
  for (int i = lane_index(); i < blocks; i += 32) total = Op{}(total, __ldcg(first + i * kScalars));
  return warp_reduce<32>(total, Op{});
}

// Total of one published scalar, the same in every thread of every block. Max instead of a sum
// where asked for. Every warp works it out for itself: no barrier.
template <class Op = Add>
__device__ __forceinline__ double collect(const Block& b, int region, int which, Op = {}) {
  return warp_total<Op>(published(b, region) + which, b.grid);
}

}  // namespace
}  // namespace trpo_fast
