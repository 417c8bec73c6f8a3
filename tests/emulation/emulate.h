// CUDA C++ for g++: the vocabulary that kernels get through csrc/cuda/prims/dev.h when nvcc is not the
// compiler. Barriers and collectives know their line of source through default arguments.
#pragma once
#include <math.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "runtime.h"

#define TRPO_FAST_EMULATE 1
#define TRPO_SITE_PARAM , ::emulation::Site site = {__builtin_FILE(), __builtin_LINE()}
#define TRPO_SITE_ARG , site
#define TRPO_SITE_PASS site
#define TRPO_SITE_ONLY ::emulation::Site site = {__builtin_FILE(), __builtin_LINE()}

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static_assert(false, "shared memory comes from DYN_SMEM and Carve");

#define threadIdx (::emulation::current->thread_index)
#define blockIdx (::emulation::current->block_index)
#define blockDim (::emulation::current->block_size)
#define gridDim (::emulation::current->grid_size)
// Inlined in every build, so that the memory report finds the kernel's line.
#define TRPO_LAUNCH __forceinline__
#define DYN_SMEM(name) unsigned char* const name = ::emulation::current->shared
constexpr int warpSize = 32;

#include "emulate_api.h"
#include "emulate_atomics.h"
#include "emulate_types.h"

// ---- barriers and collectives ------------------------------------------------------------------
inline void __syncthreads(TRPO_SITE_ONLY) { emulation::wait_for_block(site); }
inline int __syncthreads_count(int predicate TRPO_SITE_PARAM) {
  return emulation::block_vote(predicate, site);
}
inline int __syncthreads_or(int predicate TRPO_SITE_PARAM) {
  return emulation::block_vote(predicate, site) != 0;
}
inline int __syncthreads_and(int predicate TRPO_SITE_PARAM) {
  return emulation::block_vote(predicate == 0, site) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffu TRPO_SITE_PARAM) {
  emulation::warp_collective(emulation::WarpOp::kSync, mask, 0, 0, 32, site);
}

namespace emulation {

template <class T>
inline T shuffle(WarpOp op, unsigned mask, T value, int parameter, int width, Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = warp_collective(op, mask, bits, parameter, width, site);
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t reduce(WarpOp op, unsigned mask, uint32_t value, bool is_signed, Site site) {
  return static_cast<uint32_t>(warp_collective(op, mask, value, is_signed, 32, site));
}

}  // namespace emulation

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32 TRPO_SITE_PARAM) {
  return emulation::shuffle(emulation::WarpOp::kShuffle, mask, value, lane, width, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32 TRPO_SITE_PARAM) {
  return emulation::shuffle(emulation::WarpOp::kShuffleUp, mask, value, int(delta), width, site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32 TRPO_SITE_PARAM) {
  return emulation::shuffle(emulation::WarpOp::kShuffleDown, mask, value, int(delta), width, site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32 TRPO_SITE_PARAM) {
  return emulation::shuffle(emulation::WarpOp::kShuffleXor, mask, value, lanes, width, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate TRPO_SITE_PARAM) {
  return emulation::reduce(emulation::WarpOp::kBallot, mask, predicate != 0, false, site);
}
inline int __any_sync(unsigned mask, int predicate TRPO_SITE_PARAM) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate TRPO_SITE_PARAM) {
  return __ballot_sync(mask, predicate, site) == mask;
}

#define TRPO_EMULATE_REDUCE(name, op)                                                        \
  inline unsigned name(unsigned mask, unsigned value TRPO_SITE_PARAM) {                      \
    return emulation::reduce(emulation::WarpOp::op, mask, value, false, site);               \
  }                                                                                          \
  inline int name(unsigned mask, int value TRPO_SITE_PARAM) {                                \
    return int(emulation::reduce(emulation::WarpOp::op, mask, unsigned(value), true, site)); \
  }
TRPO_EMULATE_REDUCE(__reduce_add_sync, kReduceAdd)
TRPO_EMULATE_REDUCE(__reduce_min_sync, kReduceMin)
TRPO_EMULATE_REDUCE(__reduce_max_sync, kReduceMax)
TRPO_EMULATE_REDUCE(__reduce_and_sync, kReduceAnd)
TRPO_EMULATE_REDUCE(__reduce_or_sync, kReduceOr)
TRPO_EMULATE_REDUCE(__reduce_xor_sync, kReduceXor)
#undef TRPO_EMULATE_REDUCE

inline void __nanosleep(unsigned TRPO_SITE_PARAM) { emulation::yield(site); }
[[noreturn]] inline void __trap(TRPO_SITE_ONLY) { emulation::fail("__trap", site); }

namespace emulation {

template <int kBytes>
using Chunk =
    std::conditional_t<kBytes == 16, uint4, std::conditional_t<kBytes == 8, uint2, unsigned>>;

template <int kBytes>
__forceinline__ void finish_copy(const AsyncCopy& copy) {  // in kernel code, where sanitizers look
  const Chunk<kBytes> value =
      copy.source_bytes ? *static_cast<const Chunk<kBytes>*>(copy.from) : Chunk<kBytes>{};
  *static_cast<Chunk<kBytes>*>(copy.to) = value;
}

}  // namespace emulation

// ---- dev.h: asynchronous copies, tensor cores --------------------------------------------------
// Inlined in every build, so that the memory report finds the kernel's line.
namespace trpo_fast::cuda {

__forceinline__ void grid_barrier(TRPO_SITE_ONLY) { emulation::wait_for_grid(site); }
__forceinline__ void spin_wait(TRPO_SITE_ONLY) { emulation::yield(site); }

__forceinline__ void check_aligned(const void* pointer, size_t bytes TRPO_SITE_PARAM) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes) emulation::fail("misaligned access", site);
}
template <class T>
__forceinline__ T* as_shared(T* pointer TRPO_SITE_PARAM) {
  const emulation::Thread* me = emulation::current;
  const auto* byte = reinterpret_cast<const unsigned char*>(pointer);
  if (byte < me->shared || byte > me->shared + me->shared_bytes)
    emulation::fail("as_shared of a pointer to something else", site);
  return pointer;
}
__forceinline__ void check_carve(const unsigned char* base, size_t end TRPO_SITE_PARAM) {
  const emulation::Thread* me = emulation::current;
  if (me && base == me->shared && end > me->shared_bytes)
    emulation::fail("the carver needs more shared memory than was launched", site);
}

// The copy happens at the wait, the latest legal moment, and its target is poisoned at once, the
// earliest: a missing wait and a buffer still being read both show.
template <int kBytes>
__forceinline__ void cp_async(void* to, const void* from, bool valid = true TRPO_SITE_PARAM) {
  using Chunk = emulation::Chunk<kBytes>;
  check_aligned(to, kBytes, site);
  if (valid) check_aligned(from, kBytes, site);
  const emulation::Thread* me = emulation::current;
  const auto* target = static_cast<const unsigned char*>(to);
  if (target < me->shared || target + kBytes > me->shared + me->shared_bytes)
    emulation::fail("cp.async to something else than shared memory", site);
  Chunk poison;
  memset(&poison, 0xff, sizeof poison);
  *static_cast<Chunk*>(to) = poison;
  emulation::async_issue({to, from, kBytes, valid ? kBytes : 0, site});
}
__forceinline__ void cp_async_commit() { emulation::async_commit(); }
template <int kPending>
__forceinline__ void cp_async_wait() {
  emulation::AsyncCopy copy;
  while (emulation::async_next(kPending, &copy)) {
    if (copy.bytes == 4) emulation::finish_copy<4>(copy);
    if (copy.bytes == 8) emulation::finish_copy<8>(copy);
    if (copy.bytes == 16) emulation::finish_copy<16>(copy);
  }
}

__forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                      const uint32_t (&b)[2] TRPO_SITE_PARAM) {
  emulation::warp_mma(emulation::WarpOp::kMmaTf32, d, a, b, site);
}
__forceinline__ void mma_m16n8k16_fp16(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2] TRPO_SITE_PARAM) {
  emulation::warp_mma(emulation::WarpOp::kMmaFp16, d, a, b, site);
}
__forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2] TRPO_SITE_PARAM) {
  emulation::warp_mma(emulation::WarpOp::kMmaBf16, d, a, b, site);
}

// row: in the first 8 * kCount lanes the address of one 16-byte row in shared memory.
template <int kCount, bool kTransposed>
__forceinline__ void ldmatrix(uint32_t (&out)[kCount], const void* row TRPO_SITE_PARAM) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4);
  uint32_t words[4] = {};
  if (emulation::current->lane < 8 * kCount) {
    check_aligned(row, 16, site);
    const uint4 loaded = *static_cast<const uint4*>(row);  // read here, where sanitizers look
    memcpy(words, &loaded, 16);
  }
  emulation::warp_load_matrix(out, kCount, kTransposed, words, site);
}

// Nearest, ties away from zero, as cvt.rna.tf32.f32.
__forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;
  return bits & 0xffffe000u;
}
// Two floats to 16 bits each, nearest even; the first in the low half.
__forceinline__ uint32_t pack_fp16(float low, float high) {
  return uint32_t{emulation::to_fp16(high)} << 16 | emulation::to_fp16(low);
}
__forceinline__ uint32_t pack_bf16(float low, float high) {
  return uint32_t{emulation::to_bf16(high)} << 16 | emulation::to_bf16(low);
}
__forceinline__ float2 unpack_fp16(uint32_t pair) {
  return {emulation::from_fp16(pair & 0xffff), emulation::from_fp16(pair >> 16)};
}
__forceinline__ float2 unpack_bf16(uint32_t pair) {
  return {std::bit_cast<float>(pair << 16), std::bit_cast<float>(pair & 0xffff0000u)};
}

}  // namespace trpo_fast::cuda
