// Planted bugs: each kernel is wrong in one way. tests/emulation/test_emulation.py runs them by name and says
// which build must report what. (Their right twins are in cases_primitives.cpp.)
#include "cases.h"
#include "cuda/prims/copy.cuh"
#include "cuda/prims/grid_sync.cuh"
#include "cuda/prims/reduce.cuh"

using namespace trpo_fast::cuda;

namespace {

struct Data {
  const float* in;
  float* out;
  unsigned* flag;
};

// Launches with 64 floats in, 256 out, and reports what the emulator says.
void run_bug(void (*kernel)(Data), dim3 grid, dim3 block, size_t shared_bytes, bool cooperative) {
  std::vector<float> in(64, 1), out(256);
  unsigned flag = 0;
  const Data data{in.data(), out.data(), &flag};
  CHECK_LAUNCH(launch(kernel, grid, block, shared_bytes, cooperative, nullptr, data));
  for (const float value : out) CHECK_NEAR(value, value, 0);  // NaN shows
}

#define BUG(name, grid, block, shared_bytes, cooperative)                                 \
  __global__ void name##_kernel(const Data p);                                            \
  EMULATION_BUG(name) { run_bug(name##_kernel, grid, block, shared_bytes, cooperative); } \
  __global__ void name##_kernel([[maybe_unused]] const Data p)

size_t carved(size_t floats, int arrays = 1) {
  Carve carve;
  for (int i = 0; i < arrays; ++i) carve.take<float>(floats);
  return carve.bytes;
}

// ---- ordering ------------------------------------------------------------------------------------
BUG(missing_syncthreads, 1, 64, carved(2), false) {
  DYN_SMEM(raw);
  float* part = Carve(raw).take<float>(2);
  const float sum = warp_sum(p.in[threadIdx.x]);
  if (lane_index() == 0) part[warp_index()] = sum;
  p.out[threadIdx.x] = part[0] + part[1];
}

BUG(missing_syncthreads_before_reuse, 1, 64, carved(64), false) {
  DYN_SMEM(raw);
  float* row = Carve(raw).take<float>(64);
  for (int i = 0; i < 2; ++i) {
    row[threadIdx.x] = float(i);
    __syncthreads();
    p.out[threadIdx.x] += row[63 - threadIdx.x];  // and the next round overwrites it
  }
}

BUG(missing_syncwarp, 1, 32, carved(32), false) {
  DYN_SMEM(raw);
  float* row = Carve(raw).take<float>(32);
  row[threadIdx.x] = 1;
  __shfl_xor_sync(~0u, 1, 1);  // a shuffle orders no memory
  p.out[threadIdx.x] = row[threadIdx.x ^ 1];
}

BUG(half_warp_syncwarp, 1, 32, carved(32), false) {
  DYN_SMEM(raw);
  float* row = Carve(raw).take<float>(32);
  row[threadIdx.x] = 1;
  __syncwarp(threadIdx.x < 16 ? 0xffffu : 0xffff0000u);  // the halves do not see each other
  p.out[threadIdx.x] = row[threadIdx.x ^ 16];
}

BUG(forgotten_grid_sync, 4, 32, 0, true) {
  p.out[blockIdx.x * 32 + threadIdx.x] = 1;
  __syncthreads();
  p.out[128 + blockIdx.x * 32 + threadIdx.x] = p.out[(blockIdx.x + 1) % 4 * 32 + threadIdx.x];
}

// Thread 0 alone looks at the flags, and nothing hands on what it received.
BUG(flag_barrier_without_its_end, 4, 32, 0, true) {
  p.out[blockIdx.x * 32 + threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0) add_release(p.flag, 1);
  if (threadIdx.x == 0)
    while (load_acquire(p.flag) < gridDim.x) spin_wait();
  p.out[128 + blockIdx.x * 32 + threadIdx.x] = p.out[(blockIdx.x + 1) % 4 * 32 + threadIdx.x];
}

BUG(blocks_write_the_same_place, 4, 32, 0, false) { p.out[threadIdx.x] = float(blockIdx.x); }

BUG(flag_without_fence, 2, 32, 0, true) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    p.out[0] = 1;
    atomicExch(p.flag, 1u);
  } else {
    while (atomicAdd(p.flag, 0u) == 0) spin_wait();
    p.out[1] = p.out[0];
  }
}

BUG(cp_async_into_a_buffer_in_use, 1, 64, carved(64), false) {
  DYN_SMEM(raw);
  float* row = Carve(raw).take<float>(64);
  row[threadIdx.x] = 1;
  __syncthreads();
  cp_async<4>(&row[threadIdx.x], &p.in[threadIdx.x]);  // others have not read row yet
  p.out[threadIdx.x] = row[63 - threadIdx.x];
  cp_async_wait_all();
}

BUG(cp_async_without_barrier, 1, 64, carved(64), false) {
  DYN_SMEM(raw);
  float* row = Carve(raw).take<float>(64);
  cp_async<4>(&row[threadIdx.x], &p.in[threadIdx.x]);
  cp_async_wait_all();  // waits for this thread's copies only
  p.out[threadIdx.x] = row[63 - threadIdx.x];
}

// ---- memory --------------------------------------------------------------------------------------
BUG(cp_async_without_wait, 1, 64, carved(64), false) {
  DYN_SMEM(raw);
  float* row = Carve(raw).take<float>(64);
  cp_async<4>(&row[threadIdx.x], &p.in[threadIdx.x]);
  cp_async_commit();
  __syncthreads();
  p.out[threadIdx.x] = row[threadIdx.x];
  cp_async_wait<0>();
}

BUG(cp_async_waits_for_the_wrong_group, 1, 64, carved(64), false) {
  DYN_SMEM(raw);
  float* row = Carve(raw).take<float>(64);
  cp_async<4>(&row[threadIdx.x], &p.in[threadIdx.x]);
  cp_async_commit();
  cp_async_wait<1>();  // one group may still be pending: this one
  p.out[threadIdx.x] = row[threadIdx.x];
  cp_async_wait<0>();
}

BUG(cp_async_never_awaited, 1, 64, carved(64), false) {
  DYN_SMEM(raw);
  cp_async<4>(&Carve(raw).take<float>(64)[threadIdx.x], &p.in[threadIdx.x]);
}

BUG(uninitialised_shared, 1, 32, carved(32), false) {
  DYN_SMEM(raw);
  p.out[threadIdx.x] = Carve(raw).take<float>(32)[threadIdx.x];
}

BUG(overrun_between_shared_arrays, 1, 32, carved(32, 2), false) {
  DYN_SMEM(raw);
  Carve carve(raw);
  float *first = carve.take<float>(32), *second = carve.take<float>(32);
  second[threadIdx.x] = 0;
  first[threadIdx.x + 1] = 1;
  p.out[threadIdx.x] = second[threadIdx.x];
}

BUG(overrun_of_shared_memory, 1, 32, carved(32), false) {
  DYN_SMEM(raw);
  reinterpret_cast<float*>(raw)[threadIdx.x + carved(32) / 4] = 1;
}

BUG(carver_beyond_the_launch, 1, 32, carved(16), false) {
  DYN_SMEM(raw);
  p.out[threadIdx.x] = float(Carve(raw).take<float>(32) != nullptr);
}

BUG(as_shared_of_global_memory, 1, 32, carved(32), false) {
  p.out[threadIdx.x] = *as_shared(p.in + threadIdx.x);
}

BUG(overrun_of_global_memory, 1, 64, 0, false) { p.out[255] = p.in[threadIdx.x + 1]; }

BUG(misaligned_float4, 1, 1, carved(8), false) {
  DYN_SMEM(raw);
  float* row = Carve(raw).take<float>(8);
  *reinterpret_cast<float4*>(row + 1) = make_float4(1, 2, 3, 4);
  p.out[0] = row[1];
}

BUG(misaligned_load4, 1, 1, 0, false) { p.out[0] = load4(p.in + 2).x; }

BUG(misaligned_cp_async, 1, 1, carved(8), false) {
  DYN_SMEM(raw);
  cp_async<16>(Carve(raw).take<float>(8) + 2, p.in);
  cp_async_wait_all();
}

BUG(misaligned_ldmatrix, 1, 32, carved(64), false) {
  DYN_SMEM(raw);
  uint32_t out[1];
  ldmatrix<1, false>(out, raw + 8 * threadIdx.x);
}

BUG(wild_pointer, 1, 32, 0, false) {
  if (threadIdx.x == 9) *reinterpret_cast<volatile float*>(uintptr_t{64}) = 1;
}

BUG(stack_overflow, 1, 1, 0, false) {
  volatile float local[100000];
  for (int i = 100000; i-- > 0;) local[i] = 1;
  p.out[0] = local[0];
}

// ---- control flow --------------------------------------------------------------------------------
BUG(divergent_syncthreads, 1, 64, 0, false) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

BUG(divergent_grid_sync, 2, 32, 0, true) {
  if (blockIdx.x == 0) {
    grid_sync();
  } else {
    grid_sync();
  }
}

BUG(early_exit_before_syncthreads, 1, 64, 0, false) {
  if (threadIdx.x == 3) return;
  __syncthreads();
}

BUG(early_exit_before_grid_sync, 2, 32, 0, true) {
  if (blockIdx.x == 0) return;
  grid_sync();
}

BUG(deadlock, 2, 32, 0, true) {
  if (blockIdx.x == 0 || threadIdx.x < 16) grid_sync();
  __syncthreads();
}

BUG(livelock, 1, 32, 0, false) {
  while (load_acquire(p.flag) == 0) spin_wait();
}

BUG(ordinary_blocks_wait_for_each_other, 2, 32, 0, false) {
  if (threadIdx.x == 0) add_release(p.flag, 1);
  while (load_acquire(p.flag) < 2) spin_wait();
}

BUG(divergent_shuffle, 1, 32, 0, false) {
  float v = 1;
  if (threadIdx.x < 16) {
    v = __shfl_xor_sync(~0u, v, 1);
  } else {
    v = __shfl_xor_sync(~0u, v, 2);
  }
  p.out[threadIdx.x] = v;
}

BUG(mask_without_own_lane, 1, 32, 0, false) {
  p.out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.f, 1);
}

BUG(shuffle_outside_the_mask, 1, 32, 0, false) {
  if (threadIdx.x < 16) p.out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.f, 16);
}

BUG(mask_with_exited_lane, 1, 32, 0, false) {
  if (threadIdx.x == 7) return;
  p.out[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1);
}

BUG(mask_beyond_the_block, 1, 16, 0, false) { p.out[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1); }

BUG(odd_shuffle_width, 1, 32, 0, false) { p.out[threadIdx.x] = __shfl_sync(~0u, 1.f, 0, 12); }

BUG(trap, 1, 32, 0, false) {
  if (threadIdx.x == 5) __trap();
}

// ---- resources -----------------------------------------------------------------------------------
BUG(too_many_threads, 1, 1025, 0, false) {}
BUG(no_blocks, 0, 32, 0, false) {}
BUG(too_much_shared_memory, 1, 32, emulation::shared_limit() + 1, false) {}
BUG(cooperative_beyond_residency, 9, 1024, 0, true) {}  // 4 multiprocessors, one block on each

}  // namespace
