// Between flat vectors [P], as callers have them, and packed ones.
#pragma once
#include "cuda/resident/allreduce.cuh"

namespace trpo_fast::cuda {
namespace {

// pack of a flat vector, not inlined: long, rare, and of three places.
template <class V>
__device__ TRPO_NOINLINE void pack_flat(const KernelArgs& a, const float* flat, float* packed,
                                        int thread, int threads) {
  float* to = V::kStreamed ? off_chip(packed) : on_chip(packed);
  pack(a.layout, off_chip(flat), to, {thread, threads});
}

// value(i) of the block's slice of a packed vector, to its flat place; one float a thread, so that a
// warp writes whole sectors.
template <class Value>
__device__ __forceinline__ void block_unpack(const Layout& l, const Block& b, float* flat,
                                             Value value) {
  const Slice slice = own_slice(l, b);
  for (int i = 4 * slice.first + threadIdx.x; i < 4 * slice.last; i += kThreads) {
    const int at = flat_index(l, i);
    if (at >= 0) flat[at] = value(i);
  }
}

// The sum of all blocks' partials, finish(quad, sum), to its flat place by way of the packed vector
// `room`.
template <class Finish>
__device__ __forceinline__ void block_reduce_to_flat(const Layout& l, const Block& b, float* room,
                                                     float* flat, Finish finish) {
  block_reduce_slice(l, b,
                     [&](int quad, float4 sum) { store4(room + 4 * quad, finish(quad, sum)); });
  __syncthreads();  // the block's slice is complete
  block_unpack(l, b, flat, [&](int i) { return __ldcg(room + i); });
}

}  // namespace
}  // namespace trpo_fast::cuda
