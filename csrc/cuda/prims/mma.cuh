// Warp-level matrix products on tensor cores: fragment maps, and splits that keep fp32 accuracy.
//
// A warp computes a 16 x 8 tile D += A B. With group = lane / 4 and pair = lane % 4 a lane holds
//   D[group + 8 (i / 2)][2 pair + i % 2]                          d[i],  i = 0..3
//   tf32, depth 8:      A[group + 8 (i % 2)][pair + 4 (i / 2)]    a[i],  B[pair + 4 i][group]  b[i]
//   16 bit, depth 16:   A[group + 8 (i % 2)][2 pair + 8 (i / 2) + {0, 1}]   low, high half of a[i]
//                       B[2 pair + 8 i + {0, 1}][group]                     low, high half of b[i]
// (PTX ISA, matrix fragments for mma.m16n8k8 and m16n8k16.)
#pragma once
#include "cuda/prims/reduce.cuh"

namespace trpo_fast::cuda {

__device__ __forceinline__ int mma_row(int i) { return (lane_index() >> 2) + 8 * (i >> 1); }
__device__ __forceinline__ int mma_column(int i) { return 2 * (lane_index() & 3) + (i & 1); }

// One step of depth 8 or 16 in some precision: how floats become fragments and products.
// Split operands are high + low with high rounded to the narrow type; the product drops low * low,
// so its relative error is about 2^-21 (fp16) or 2^-16 (bf16). Tensor cores cut off what lies below the
// last bit of the largest term, the accumulator's among them, always towards zero: over many steps that
// is a bias. So a step of split operands starts at zero, and rounded fp32 additions sum up the steps.
struct Tf32 {
  static constexpr int kDepth = 8;
  struct A {
    uint32_t high[4];
  };
  struct B {
    uint32_t high[2];
  };
  template <class F>  // element(row, k)
  __device__ static __forceinline__ A load_a(F element) {
    A a;
    const int group = lane_index() >> 2, pair = lane_index() & 3;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a.high[i] = to_tf32(element(group + 8 * (i & 1), pair + 4 * (i >> 1)));
    return a;
  }
  template <class F>  // element(k, column)
  __device__ static __forceinline__ B load_b(F element) {
    B b;
    const int group = lane_index() >> 2, pair = lane_index() & 3;
#pragma unroll
    for (int i = 0; i < 2; ++i) b.high[i] = to_tf32(element(pair + 4 * i, group));
    return b;
  }
  __device__ static __forceinline__ void multiply(float (&d)[4], const A& a,
                                                  const B& b TRPO_SITE_PARAM) {
    mma_m16n8k8_tf32(d, a.high, b.high TRPO_SITE_ARG);
  }
};

// The two 16-bit types: Half::pack and Half::unpack convert pairs, Half::product is the mma.
template <class Half>
struct Split16 {
  static constexpr int kDepth = 16;
  struct A {
    uint32_t high[4], low[4];
  };
  struct B {
    uint32_t high[2], low[2];
  };
  __device__ static __forceinline__ void split(float x, float y, uint32_t* high, uint32_t* low) {
    *high = Half::pack(x, y);
    const float2 rounded = Half::unpack(*high);
    *low = Half::pack(x - rounded.x, y - rounded.y);
  }
  template <class F>  // element(row, k)
  __device__ static __forceinline__ A load_a(F element) {
    A a;
    const int group = lane_index() >> 2, pair = lane_index() & 3;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = group + 8 * (i & 1), k = 2 * pair + 8 * (i >> 1);
      split(element(row, k), element(row, k + 1), &a.high[i], &a.low[i]);
    }
    return a;
  }
  template <class F>  // element(k, column)
  __device__ static __forceinline__ B load_b(F element) {
    B b;
    const int group = lane_index() >> 2, pair = lane_index() & 3;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = 2 * pair + 8 * i;
      split(element(k, group), element(k + 1, group), &b.high[i], &b.low[i]);
    }
    return b;
  }
  __device__ static __forceinline__ void multiply(float (&d)[4], const A& a,
                                                  const B& b TRPO_SITE_PARAM) {
    float large[4] = {}, small[4] = {};
    Half::product(large, a.high, b.high TRPO_SITE_ARG);
    Half::product(small, a.low, b.high TRPO_SITE_ARG);
    Half::product(small, a.high, b.low TRPO_SITE_ARG);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] += large[i] + small[i];
  }
};

struct Fp16 {
  __device__ static __forceinline__ uint32_t pack(float x, float y) { return pack_fp16(x, y); }
  __device__ static __forceinline__ float2 unpack(uint32_t pair) { return unpack_fp16(pair); }
  __device__ static __forceinline__ void product(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2] TRPO_SITE_PARAM) {
    mma_m16n8k16_fp16(d, a, b TRPO_SITE_ARG);
  }
};
struct Bf16 {
  __device__ static __forceinline__ uint32_t pack(float x, float y) { return pack_bf16(x, y); }
  __device__ static __forceinline__ float2 unpack(uint32_t pair) { return unpack_bf16(pair); }
  __device__ static __forceinline__ void product(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2] TRPO_SITE_PARAM) {
    mma_m16n8k16_bf16(d, a, b TRPO_SITE_ARG);
  }
};

// fp16 holds 2^-24 .. 65504 only: operands of Fp16x3 are scaled by the caller so that their largest
// is about 2^11 to 2^14, and the low half keeps its bits.
using Fp16x3 = Split16<Fp16>;
using Bf16x3 = Split16<Bf16>;

// D[16, 8] += A[16, depth] B[depth, 8]; depth a multiple of Precision::kDepth.
template <class Precision, class FA, class FB>
__device__ __forceinline__ void warp_mma(float (&d)[4], int depth, FA a, FB b TRPO_SITE_PARAM) {
  for (int k = 0; k < depth; k += Precision::kDepth)
    Precision::multiply(d, Precision::load_a([&](int row, int i) { return a(row, k + i); }),
                        Precision::load_b([&](int i, int column) { return b(k + i, column); })
                            TRPO_SITE_ARG);
}

}  // namespace trpo_fast::cuda
