// Conjugate gradient with a preconditioner, or with the stop by gain, as trpo_fast/core/cg.py has it:
// what stands in place of cg_resident.cuh's start and step. Plain launches have none of this, so that
// their registers stay what they were.
#pragma once
#include "cuda/resident/precondition.cuh"

namespace trpo_fast::cuda {
namespace {

// CG's state beside Cg, the same in every thread of every block.
struct Pcg {
  double rz;     // r'z, r'r where CG is plain
  double total;  // x'Ax = sum alpha r'z
  int small;     // products in a row that brought little
  bool usable;   // the factors have inverses
  bool plain;    // z = r
};

__device__ __forceinline__ bool positive(double value) { return value > 0 && isfinite(value); }

// Where block_cg_start found something to do.
__device__ __forceinline__ void pcg_start(const Cg& s, Pcg& e) {
  e.plain = !e.usable;
  e.rz = e.plain ? s.rr : 0;
  e.total = 0;
  e.small = 0;
}

// Plain CG from x = 0, after a preconditioner that failed on the way.
__device__ __forceinline__ void block_restart(const KernelArgs& a, const Block& b, Cg& s, Pcg& e) {
  const Slice slice = own_slice(a.layout, b);
  for (int q = slice.first + threadIdx.x; q < slice.last; q += kThreads)
    store4(b.solution + 4 * q, make_float4(0, 0, 0, 0));
  each_loaded<8>(
      threadIdx.x, a.layout.packed / 4, kThreads,
      [&](int q) { return load4_global(b.gradient + 4 * q); },
      [&](int q, float4 g) {
        store4(b.residual + 4 * q, g);
        store4(b.v + 4 * q, g);
      });
  s.rr = e.rz = s.gradient_norm2;
  s.iterations = 0;
  e.total = 0;
  e.plain = true;
}

// What follows a product, as block_cg_step: true if there is another, for which block_direction makes p.
// The last product's residual is not preconditioned: nothing would come of it.
__device__ __forceinline__ bool block_pcg_step(const KernelArgs& a, const Block& b, Cg& s, Pcg& e) {
  block_complete_product(a, b, s);
  const StepOperands early = load_operands(a, b, s);
  const double curvature = block_curvature(a, b, s, early);
  if (s.iterations == 0) s.first_curvature = curvature;
  const bool moves = curvature > 0 && !isinf(curvature);
  const double alpha = e.rz / curvature, gain = alpha * e.rz;
  if (moves) {
    const double share =
        block_step_residual(a, b, s, static_cast<float>(alpha), early, [](int, float4) {});
    s.rr = block_sum(share, reinterpret_cast<double*>(b.reduce));
  }
  ++s.products;
  if (!moves) return false;
  ++s.iterations;
  e.total += gain;
  e.small = gain <= a.cg.gain_tol * e.total ? e.small + 1 : 0;
  if (a.cg.gain_tol > 0 && e.small >= 2) return false;
  return s.iterations < a.cg.iterations && s.rr > s.threshold;
}

// p = z + beta p from z = M^-1 r; z itself at first, where r'z is not known yet. Without a preconditioner
// z = r. What fits in registers of z is asked for before r'z is known.
__device__ __forceinline__ void block_direction(const KernelArgs& a, const Block& b, Cg& s,
                                                Pcg& e) {
  const int quads = a.layout.packed / 4;
  const auto load = [&](int q) {
    return e.plain ? load4(b.residual + 4 * q) : load4_global(direction(a) + 4 * q);
  };
  if (!e.plain) block_precondition(a, b);
  float4 early[kEarlyQuads];
#pragma unroll
  for (int i = 0; i < kEarlyQuads; ++i)
    early[i] = load(min(int(threadIdx.x) + i * kThreads, quads - 1));
  const double next = e.plain ? s.rr : warp_sums<1>(published(b, kRegionSearch), b.grid).value[0];
  if (!e.plain && !positive(next)) return block_restart(a, b, s, e);
  const float beta = e.rz == 0 ? 0.0f : static_cast<float>(next / e.rz);
  e.rz = next;
  const auto use = [&](int q, float4 z) {
    store4(b.v + 4 * q, axpy4(beta, load4(b.v + 4 * q), z));
  };
#pragma unroll
  for (int i = 0; i < kEarlyQuads; ++i) {
    const int q = threadIdx.x + i * kThreads;
    if (q < quads) use(q, early[i]);
  }
  each_loaded<kEarlyQuads>(threadIdx.x + kEarlyQuads * kThreads, quads, kThreads, load, use);
}

}  // namespace
}  // namespace trpo_fast::cuda
