// Moving tiles between global and shared memory, and vector access that says when it is misaligned.
#pragma once
#include "cuda/prims/dev.h"

namespace trpo_fast::cuda {

__device__ __forceinline__ float4 load4(const float* from TRPO_SITE_PARAM) {
  check_aligned(from, 16 TRPO_SITE_ARG);
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ float2 load2(const float* from TRPO_SITE_PARAM) {
  check_aligned(from, 8 TRPO_SITE_ARG);
  return *reinterpret_cast<const float2*>(from);
}
__device__ __forceinline__ void store4(float* to, float4 value TRPO_SITE_PARAM) {
  check_aligned(to, 16 TRPO_SITE_ARG);
  *reinterpret_cast<float4*>(to) = value;
}
__device__ __forceinline__ void store2(float* to, float2 value TRPO_SITE_PARAM) {
  check_aligned(to, 8 TRPO_SITE_ARG);
  *reinterpret_cast<float2*>(to) = value;
}

__device__ __forceinline__ float4 load4_global(const float* from) {  // past L1: other blocks write
  return __ldcg(reinterpret_cast<const float4*>(from));
}
__device__ __forceinline__ uint4 load4(const uint32_t* from TRPO_SITE_PARAM) {
  check_aligned(from, 16 TRPO_SITE_ARG);
  return *reinterpret_cast<const uint4*>(from);
}
__device__ __forceinline__ void store4(uint32_t* to, uint4 value TRPO_SITE_PARAM) {
  check_aligned(to, 16 TRPO_SITE_ARG);
  *reinterpret_cast<uint4*>(to) = value;
}

// use(i, load(i)) for i = first, first + step, ... below end, in order. kBatch loads at a time are
// under way together, whatever the count: one trip to L2 takes as long as hundreds of instructions.
// Past the end the first is loaded again, which costs less than a branch.
template <int kBatch, class Load, class Use>
__device__ __forceinline__ void each_loaded(int first, int end, int step, Load load, Use use) {
#pragma unroll 1
  for (int base = first; base < end; base += kBatch * step) {
    decltype(load(0)) value[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = base + i * step;
      value[i] = load(at < end ? at : base);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = base + i * step;
      if (at < end) use(at, value[i]);
    }
  }
}

__device__ __forceinline__ void cp_async_wait_all() {
  cp_async_commit();
  cp_async_wait<0>();
}

// The block fills to[count] with zeros: whole quads of 16 bytes.
template <class T>
__device__ __forceinline__ void block_zero(T* to, int count) {
  const auto zero = decltype(load4(to)){};
#pragma unroll 4
  for (int i = 4 * threadIdx.x; i < count; i += 4 * blockDim.x) store4(to + i, zero);
}

// Starts copying a tile [rows, columns] from global memory (row stride from_stride) to shared memory
// (row stride to_stride); rows from valid_rows on become zeros, as do columns up to padded_columns.
// Sixteen bytes at a time where both sides allow it. The caller commits and waits, then a barrier.
__device__ __forceinline__ void block_copy_tile(float* to, int to_stride, const float* from,
                                                int64_t from_stride, int rows, int columns,
                                                int valid_rows, int padded_columns) {
  const bool wide = columns % 4 == 0 && padded_columns % 4 == 0 && to_stride % 4 == 0 &&
                    from_stride % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(to) % 16 == 0;
  const int step = wide ? 4 : 1, per_row = padded_columns / step;
  for (int i = threadIdx.x; i < rows * per_row; i += blockDim.x) {
    const int row = i / per_row, column = i % per_row * step;
    float* target = to + row * to_stride + column;
    const bool valid = row < valid_rows && column < columns;
    const float* source = valid ? from + row * from_stride + column : from;
    if (wide) {
      cp_async<16>(target, source, valid);
    } else {
      cp_async<4>(target, source, valid);
    }
  }
}

}  // namespace trpo_fast::cuda
