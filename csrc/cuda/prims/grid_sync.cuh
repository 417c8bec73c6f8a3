// Barriers over all blocks of a cooperative launch. Both order all memory of the grid.
#pragma once
#include "cuda/prims/dev.h"

namespace trpo_fast::cuda {

// Cooperative groups' barrier: its counter belongs to the driver, nothing to set up.
__device__ __forceinline__ void grid_sync(TRPO_SITE_ONLY) { grid_barrier(TRPO_SITE_PASS); }

// The same by hand. The counter is one word of global memory, zero when allocated and never reset:
// a barrier adds 2^31 in all, of which block 0 brings what the others leave, so the top bit flips
// when the last block arrives and the low bits return to zero.
__device__ __forceinline__ void grid_sync(unsigned* counter TRPO_SITE_PARAM) {
  __syncthreads(TRPO_SITE_PASS);  // the block's writes, before thread 0 publishes them
  if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    const bool first = blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0;
    const unsigned before =
        add_acquire_release(counter, first ? 0x80000000u - (blocks - 1) : 1u TRPO_SITE_ARG);
    while (((load_acquire(counter TRPO_SITE_ARG) ^ before) & 0x80000000u) == 0)
      spin_wait(TRPO_SITE_PASS);
  }
  __syncthreads(TRPO_SITE_PASS);  // what thread 0 received, before anyone in the block reads it
}

constexpr int kFlagStride = 32;  // words between the flags of two blocks: a line of L2 each

// The same by flags, without atomics: each block has a word that it alone writes, and thread i looks at
// block i's. `epoch` is 1 for the first barrier, 2 for the next one and so on; the words are zero before
// any block comes to the first.
__device__ __forceinline__ void grid_sync(unsigned* flags, unsigned epoch TRPO_SITE_PARAM) {
  __syncthreads(TRPO_SITE_PASS);  // the block's writes, before thread 0 publishes them
  if (threadIdx.x == 0) store_release(flags + blockIdx.x * kFlagStride, epoch TRPO_SITE_ARG);
  for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
    const unsigned* flag = flags + block * kFlagStride;  // a fast block may be one barrier ahead
    while (static_cast<int>(load_acquire(flag TRPO_SITE_ARG) - epoch) < 0)
      spin_wait(TRPO_SITE_PASS);
  }
  __syncthreads(TRPO_SITE_PASS);  // what the threads received, before anyone in the block reads it
}

}  // namespace trpo_fast::cuda
