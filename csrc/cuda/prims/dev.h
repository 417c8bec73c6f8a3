// Where nvcc and g++ differ in code of the kernels. Kernels include this (and prims/) and nothing of
// CUDA: launch() instead of <<<>>>, DYN_SMEM and Carve instead of static __shared__, the functions
// below instead of inline PTX. g++ takes the same names from tests/emulation/emulate.h, which runs
// every CUDA thread as a fiber. Elsewhere __CUDACC__ only chooses a function's qualifiers: in
// shared/heads.h and resident/layout.h, which code without CUDA reads as well, and in api.h.
//
//   launch(kernel, grid, block, shared_bytes, cooperative, stream, params) -> cudaError_t
//   grid_barrier()                       all threads of a cooperative launch
//   spin_wait()                          inside every loop that waits for another block
//   load_acquire / load_relaxed / store_release / add_release / add_acquire_release   flags
//   cp_async<4|8|16>(to, from, valid), cp_async_commit(), cp_async_wait<pending groups>()
//   mma_m16n8k8_tf32, mma_m16n8k16_fp16, mma_m16n8k16_bf16 (d += a b, fp32 accumulate)
//   ldmatrix<count, transposed>(out, row address), or a SharedRow: shared_row(address) + bytes
//   as_shared(pointer)                   tells nvcc that it points to shared memory: through structs and
//                                        branches it forgets, and then loads are slow generic ones
//   on_chip(pointer)                     the same by a conversion of the address, which holds through
//                                        lambdas as well
//   off_chip(pointer)                    that for global memory, or null
//   to_tf32, pack_fp16, pack_bf16, unpack_fp16, unpack_bf16
//   TRPO_SITE_PARAM, TRPO_SITE_ARG       last parameter / argument of a wrapper around a barrier or
//   TRPO_SITE_ONLY, TRPO_SITE_PASS       collective (the only one): the emulator then reports the
//                                        line of the wrapper's caller
#pragma once
#include <cstddef>
#include <cstdint>

#if !defined(__CUDACC__)
#include "emulate.h"

#define TRPO_NOINLINE __attribute__((noinline))

namespace trpo_fast::cuda {
template <class T>
T* on_chip(T* pointer) {
  return pointer;
}
template <class T>
T* off_chip(T* pointer) {
  return pointer;
}
using SharedRow = const char*;
inline SharedRow shared_row(const void* pointer) { return static_cast<const char*>(pointer); }
}  // namespace trpo_fast::cuda

#else

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#define TRPO_SITE_ONLY
#define TRPO_SITE_PASS
#define TRPO_SITE_PARAM
#define TRPO_SITE_ARG
#define TRPO_LAUNCH inline
#define TRPO_NOINLINE __noinline__
#define DYN_SMEM(name) extern __shared__ __align__(128) unsigned char name[]

namespace trpo_fast::cuda {

__device__ __forceinline__ void grid_barrier() { cooperative_groups::this_grid().sync(); }
__device__ __forceinline__ void spin_wait() {}  // polling a flag in L2 paces itself
__device__ __forceinline__ void check_aligned(const void*, size_t) {}
template <class T>
__device__ __forceinline__ T* as_shared(T* pointer) {
  __builtin_assume(__isShared(pointer));
  return pointer;
}
template <class T>
__device__ __forceinline__ T* on_chip(T* pointer) {
  size_t address;
  asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(pointer));
  return static_cast<T*>(__cvta_shared_to_generic(address));
}
template <class T>
__device__ __forceinline__ T* off_chip(T* pointer) {
  size_t address;
  asm("cvta.to.global.u64 %0, %1;" : "=l"(address) : "l"(pointer));
  return static_cast<T*>(__cvta_global_to_generic(address));
}

__device__ __forceinline__ unsigned load_acquire(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
__device__ __forceinline__ unsigned load_relaxed(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
__device__ __forceinline__ void store_release(unsigned* flag, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ void add_release(unsigned* flag, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ unsigned add_acquire_release(unsigned* flag, unsigned value) {
  unsigned old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(flag), "r"(value)
               : "memory");
  return old;
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// valid = false writes zeros and reads nothing. Sixteen bytes bypass L1.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* to, const void* from, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const int source_bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                 "l"(from), "n"(kBytes), "r"(source_bytes)
                 : "memory");
  }
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#define TRPO_MMA(name, shape)                                                         \
  __device__ __forceinline__ void name(float (&d)[4], const uint32_t (&a)[4],         \
                                       const uint32_t (&b)[2]) {                      \
    asm volatile("mma.sync.aligned." shape                                            \
                 " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"             \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
  }
TRPO_MMA(mma_m16n8k8_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
TRPO_MMA(mma_m16n8k16_fp16, "m16n8k16.row.col.f32.f16.f16.f32")
TRPO_MMA(mma_m16n8k16_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
#undef TRPO_MMA

using SharedRow = unsigned;
__device__ __forceinline__ SharedRow shared_row(const void* pointer) {
  return shared_address(pointer);
}

// row: in the first 8 * kCount lanes the address of one 16-byte row in shared memory.
template <int kCount, bool kTransposed>
__device__ __forceinline__ void ldmatrix(uint32_t (&out)[kCount], SharedRow from) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4);
#define TRPO_LDMATRIX(form, outputs, ...)                                 \
  asm volatile("ldmatrix.sync.aligned.m8n8." form ".shared.b16 {" outputs \
               : __VA_ARGS__                                              \
               : "r"(from)                                                \
               : "memory")
  if constexpr (kCount == 1 && !kTransposed) {
    TRPO_LDMATRIX("x1", "%0}, [%1];", "=r"(out[0]));
  } else if constexpr (kCount == 1) {
    TRPO_LDMATRIX("x1.trans", "%0}, [%1];", "=r"(out[0]));
  } else if constexpr (kCount == 2 && !kTransposed) {
    TRPO_LDMATRIX("x2", "%0,%1}, [%2];", "=r"(out[0]), "=r"(out[1]));
  } else if constexpr (kCount == 2) {
    TRPO_LDMATRIX("x2.trans", "%0,%1}, [%2];", "=r"(out[0]), "=r"(out[1]));
  } else if constexpr (!kTransposed) {
    TRPO_LDMATRIX("x4", "%0,%1,%2,%3}, [%4];", "=r"(out[0]), "=r"(out[1]), "=r"(out[2]),
                  "=r"(out[3]));
  } else {
    TRPO_LDMATRIX("x4.trans", "%0,%1,%2,%3}, [%4];", "=r"(out[0]), "=r"(out[1]), "=r"(out[2]),
                  "=r"(out[3]));
  }
#undef TRPO_LDMATRIX
}
template <int kCount, bool kTransposed>
__device__ __forceinline__ void ldmatrix(uint32_t (&out)[kCount], const void* row) {
  ldmatrix<kCount, kTransposed>(out, shared_address(row));
}

__device__ __forceinline__ uint32_t to_tf32(float x) {  // nearest, ties away from zero
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}
// Two floats to 16 bits each, nearest even; the first in the low half.
__device__ __forceinline__ uint32_t pack_fp16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ float2 unpack_fp16(uint32_t pair) {
  float2 out;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
      : "=f"(out.x), "=f"(out.y)
      : "r"(pair));
  return out;
}
__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

}  // namespace trpo_fast::cuda

#endif  // __CUDACC__

namespace trpo_fast::cuda {

// Lets a kernel ask for as much shared memory as a block of the current device may have. The driver keeps
// that number for each kernel and device, for all threads: it is the same whatever a launch asks for, so
// that none lowers it below what another thread is about to launch.
TRPO_LAUNCH cudaError_t allow_shared(const void* kernel) {
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

// Every launch. All of it is allowed while a stream is captured.
template <class... Params, class... Args>
TRPO_LAUNCH cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block,
                               size_t shared_bytes, bool cooperative, cudaStream_t stream,
                               const Args&... args) {
  if (shared_bytes > 48 * 1024) {  // beyond the static limit a kernel must opt in
    const cudaError_t error = allow_shared(reinterpret_cast<const void*>(kernel));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  // In order: gridDim, blockDim (words of the emulator's, as members), bytes, stream, attributes.
  const cudaLaunchConfig_t config = {grid,   block,      shared_bytes,
                                     stream, &attribute, cooperative ? 1u : 0u};
  return cudaLaunchKernelEx(&config, kernel, args...);
}

// Lays out shared memory. The same code adds up the size on the host (base = null) and hands out
// pointers on the device. Under ASan every array is followed by a poisoned red zone, so an overrun
// inside the one dynamic block is seen.
struct Carve {
  unsigned char* base;
  size_t bytes = 0;

  __host__ __device__ explicit Carve(unsigned char* start = nullptr) : base(start) {}

  template <class T>
  __host__ __device__ T* take(size_t count, size_t align = 16) {
    bytes = (bytes + align - 1) / align * align;
#if defined(__CUDA_ARCH__)
    T* start = reinterpret_cast<T*>(base + bytes);  // by way of an integer nvcc would forget what
#else                                               // memory this is
    T* start = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(base) + bytes);  // base may be null
#endif
    bytes += count * sizeof(T);
#if !defined(__CUDACC__)
    if (base) {
      check_carve(base, bytes + emulation::kRedZone);
      emulation::poison(base + bytes, emulation::kRedZone);
    }
    bytes += emulation::kRedZone;
#endif
    return start;
  }
};

}  // namespace trpo_fast::cuda
