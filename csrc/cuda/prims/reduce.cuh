// Sums over a warp and over a block in an order that depends on the shape alone, so that equal
// inputs give equal bits.
#pragma once
#include "cuda/prims/dev.h"

namespace trpo_fast::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x & 31); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x >> 5); }
__device__ __forceinline__ int warp_count() { return static_cast<int>((blockDim.x + 31) >> 5); }

struct Add {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

// What lane n ^ mask gives; all 32 lanes call.
__device__ __forceinline__ float lane_swap(float value, int mask TRPO_SITE_PARAM) {
  return __shfl_xor_sync(kFullWarp, value, mask, 32 TRPO_SITE_ARG);
}

// All 32 lanes call; all get the result (butterfly: the same order of additions in every lane).
// kWidth < 32 reduces every aligned group of kWidth lanes by itself.
template <int kWidth = 32, class T, class Op = Add>
__device__ __forceinline__ T warp_reduce(T value, Op op = {} TRPO_SITE_PARAM) {
  static_assert(kWidth >= 1 && kWidth <= 32 && (kWidth & (kWidth - 1)) == 0);
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset >>= 1)
    value = op(value, __shfl_xor_sync(kFullWarp, value, offset, 32 TRPO_SITE_ARG));
  return value;
}

template <class T>
__device__ __forceinline__ T warp_sum(T value TRPO_SITE_PARAM) {
  return warp_reduce<32>(value, Add {} TRPO_SITE_ARG);
}

// kCount values at once over the block (one-dimensional, whole warps); all threads get all results.
// scratch: kCount * warps values of shared memory, not in use by anybody until the next barrier
// after the call, which block_reduce itself opens with.
template <int kCount, class T, class Op = Add>
__device__ __forceinline__ void block_reduce(
    T (&value)[kCount], T* scratch, Op op = {} TRPO_SITE_PARAM) {
  const int warps = warp_count();
#pragma unroll
  for (int i = 0; i < kCount; ++i) value[i] = warp_reduce<32>(value[i], op TRPO_SITE_ARG);
  __syncthreads(TRPO_SITE_PASS);  // scratch may still be read from an earlier call
  if (lane_index() == 0)
#pragma unroll
    for (int i = 0; i < kCount; ++i) scratch[i * warps + warp_index()] = value[i];
  __syncthreads(TRPO_SITE_PASS);  // every warp's part is in scratch
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    value[i] = scratch[i * warps];
    for (int w = 1; w < warps; ++w) value[i] = op(value[i], scratch[i * warps + w]);
  }
}

template <class T>
__device__ __forceinline__ T block_sum(T value, T* scratch TRPO_SITE_PARAM) {
  T one[1] = {value};
  block_reduce(one, scratch, Add {} TRPO_SITE_ARG);
  return one[0];
}

}  // namespace trpo_fast::cuda
