// Stages fvp and cg. A product is one pass over the block's rows, partial vectors out, a grid
// barrier, each block's slice reduced in fixed order, a second barrier; then every block repeats
// the O(P) vector work on its own p and r, so nothing else has to be agreed on. With atomics one
// barrier is left, and the sums come in any order.
#pragma once
#include "cuda/resident/allreduce.cuh"
#include "cuda/resident/tiles.cuh"

namespace trpo_fast::cuda {
namespace {

enum SetupScalar : int { kWeight, kFvpWeight, kBad, kSurrogate, kEntropy, kSetupScalars };

// What all blocks know once the first grid barrier after `publish(kRegionSetup)` has passed.
struct Totals {
  double weight, fvp_weight, bad, surrogate, entropy;
  bool known;
};

__device__ TRPO_NOINLINE Totals add_up_totals(const double* first,
                                              int blocks) {  // once a launch or so
  const auto [t] = warp_sums<kSetupScalars>(off_chip(first), blocks);
  return {t[kWeight], t[kFvpWeight], t[kBad], t[kSurrogate], t[kEntropy], true};
}
__device__ __forceinline__ Totals collect_totals(const Block& b) {
  return add_up_totals(published(b, kRegionSetup), b.grid);
}

// Which of the three rotating sums the atomics of product number `round` go to.
__device__ __forceinline__ float* atomic_sum(const Layout& l, const Block& b, int round) {
  return b.reduced + round % 3 * l.packed;
}

__device__ __forceinline__ void block_clear_sum(const Layout& l, const Block& b, float* sum) {
  const Slice slice = own_slice(l, b);
  for (int q = slice.first + threadIdx.x; q < slice.last; q += kThreads)
    store4(sum + 4 * q, make_float4(0, 0, 0, 0));
}

// CG's state, the same in every thread of every block.
struct Cg {
  double rr, threshold;    // r'r, and the value at which it counts as converged
  double gradient_norm2;   // g'g
  double first_curvature;  // p'Ap of the first iteration, 1 before it
  int iterations;          // that moved x
  int products;            // of this launch so far
  float scale;             // 1 / total weight of the rows
};

// Where the pass of the next product adds its sums; null: partial vectors.
__device__ __forceinline__ float* product_sum(const KernelArgs& a, const Block& b, const Cg& s) {
  if (!a.atomics) return nullptr;
  // The sum after this one: its last readers passed the previous barrier, its writers wait for the
  // next.
  block_clear_sum(a.layout, b, atomic_sum(a.layout, b, s.products + 1));
  return atomic_sum(a.layout, b, s.products);
}

// One quad of A p = (sum of the blocks) / W + damping p.
__device__ __forceinline__ float4 finish_quad(const KernelArgs& a, const Block& b, int quad,
                                              float4 sum, float scale) {
  const float4 p = load4(b.v + 4 * quad);
  const float4 zero = make_float4(0, 0, 0, 0);
  return axpy4(a.damping, p, axpy4(scale, sum, zero));
}

constexpr int kEarlyQuads = 8;  // 8192 parameters' worth

// x'x of a packed vector, all threads of a block taking part.
__device__ __forceinline__ double block_norm2(const Layout& l, const Block& b, const float* x) {
  double sum = 0;
  each_loaded<kEarlyQuads>(
      threadIdx.x, l.packed / 4, kThreads, [&](int q) { return load4(x + 4 * q); },
      [&](int, float4 quad) { sum += dot_self(quad); });
  return block_sum(sum, reinterpret_cast<double*>(b.reduce));
}

// A p of one quad, wherever it is after the product.
__device__ __forceinline__ float4 load_product(const KernelArgs& a, const Block& b, const Cg& s,
                                               int quad) {
  if (!a.atomics) return load4_global(b.reduced + 4 * quad);
  const float4 sum = load4_global(atomic_sum(a.layout, b, s.products) + 4 * quad);
  return finish_quad(a, b, quad, sum, s.scale);
}

// Once every block's pass is over: completes A p and the slices' shares of p'Ap for everyone, which
// takes one more grid barrier. With atomics A p is complete.
__device__ __forceinline__ void block_complete_product(const KernelArgs& a, const Block& b,
                                                       const Cg& s) {
  if (a.atomics) return;
  double part = 0;
  block_reduce_slice(a.layout, b, [&](int quad, float4 sum) {
    const float4 z = finish_quad(a, b, quad, sum, s.scale);
    store4(b.reduced + 4 * quad, z);
    part += dot4(load4(b.v + 4 * quad), z);
  });
  publish_dot(b, sum_of_slice(a.layout, b, part));
  grid_sync();  // A p and the slices' dot products are complete
}

// What a step of CG reads, all of it at once, before the step's length is known: A p, r and perhaps x
// lie in global memory, and their way takes as long as the dot products'.
struct StepOperands {
  float4 product[kEarlyQuads];   // A p at quads threadIdx.x + i kThreads
  float4 residual[kEarlyQuads];  // r there
  float4 solution, direction;    // x and p at the thread's first quad of the block's slice
};

__device__ __forceinline__ StepOperands load_operands(const KernelArgs& a, const Block& b,
                                                      const Cg& s) {
  const int quads = a.layout.packed / 4;
  const float4 zero = make_float4(0, 0, 0, 0);
  StepOperands early;
  // One branch outside of the loops: with one in each, every load would wait for the last.
  const auto load_all = [&](auto load) {
#pragma unroll
    for (int i = 0; i < kEarlyQuads; ++i) {
      const int q = threadIdx.x + i * kThreads;
      early.product[i] = q < quads ? load(q) : zero;
    }
  };
  if (a.atomics) {
    load_all([&](int q) { return load_product(a, b, s, q); });
  } else {
    load_all([&](int q) { return load4_global(b.reduced + 4 * q); });
  }
#pragma unroll
  for (int i = 0; i < kEarlyQuads; ++i) {
    const int q = threadIdx.x + i * kThreads;
    early.residual[i] = q < quads ? load4(b.residual + 4 * q) : zero;
  }
  const Slice slice = own_slice(a.layout, b);
  const int first = slice.first + threadIdx.x;
  early.solution = first < slice.last ? load4(b.solution + 4 * first) : zero;
  early.direction = first < slice.last ? load4(b.v + 4 * first) : zero;
  return early;
}

// p'Ap, A p being complete.
__device__ __forceinline__ double block_curvature(const KernelArgs& a, const Block& b, const Cg& s,
                                                  const StepOperands& early) {
  if (!a.atomics) return collect_dot(b);
  const int quads = a.layout.packed / 4;
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kEarlyQuads; ++i) {
    const int q = threadIdx.x + i * kThreads;
    if (q < quads) sum += dot4(load4(b.v + 4 * q), early.product[i]);
  }
  each_loaded<kEarlyQuads>(
      threadIdx.x + kEarlyQuads * kThreads, quads, kThreads,
      [&](int q) { return load_product(a, b, s, q); },
      [&](int q, float4 product) { sum += dot4(load4(b.v + 4 * q), product); });
  return block_sum(sum, reinterpret_cast<double*>(b.reduce));
}

// x += alpha p on the block's slice; r -= alpha A p everywhere. Returns the thread's share of r'r;
// keep(i, r) has its first kEarlyQuads quads of r.
template <class Keep>
__device__ __forceinline__ double block_step_residual(const KernelArgs& a, const Block& b,
                                                      const Cg& s, float alpha,
                                                      const StepOperands& early, Keep keep) {
  const Slice slice = own_slice(a.layout, b);
  const int first = slice.first + threadIdx.x, quads = a.layout.packed / 4;
  for (int q = first; q < slice.last; q += kThreads) {
    const float4 x = q == first ? early.solution : load4(b.solution + 4 * q);
    const float4 p = q == first ? early.direction : load4(b.v + 4 * q);
    store4(b.solution + 4 * q, axpy4(alpha, p, x));
  }
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kEarlyQuads; ++i) {
    const int q = threadIdx.x + i * kThreads;
    const float4 r = axpy4(-alpha, early.product[i], early.residual[i]);
    keep(i, r);
    if (q >= quads) continue;
    store4(b.residual + 4 * q, r);
    sum += dot_self(r);
  }
  each_loaded<kEarlyQuads>(
      threadIdx.x + kEarlyQuads * kThreads, quads, kThreads,
      [&](int q) { return load_product(a, b, s, q); },
      [&](int q, float4 product) {
        const float4 r = axpy4(-alpha, product, load4(b.residual + 4 * q));
        store4(b.residual + 4 * q, r);
        sum += dot_self(r);
      });
  return sum;
}

// x = 0; p = r = g is set. True if there is anything to do.
__device__ __forceinline__ bool block_cg_start(const KernelArgs& a, const Block& b, Cg& s) {
  const Slice slice = own_slice(a.layout, b);
  for (int q = slice.first + threadIdx.x; q < slice.last; q += kThreads)
    store4(b.solution + 4 * q, make_float4(0, 0, 0, 0));
  s.rr = block_norm2(a.layout, b, b.v);
  const double tolerance = fmaxf(a.cg.tol, 4.0f * 1.1920929e-7f);
  s.threshold = tolerance * tolerance * s.rr;
  s.gradient_norm2 = s.rr;
  s.first_curvature = 1;
  s.iterations = 0;
  return s.rr > s.threshold;
}

static_assert(kEarlyQuads == kSplitBatch);

// r'r, and p = r + beta p, the thread's first quads of r and its share of r'r being given. Of a p that is
// one batch, the halves are written too.
template <class V>
__device__ __forceinline__ double block_turn(const KernelArgs& a, const Block& b, double share,
                                             double rr, QuadBatch& r) {
  const Layout& l = a.layout;
  const int quads = l.packed / 4;
  float4 p[kEarlyQuads];
#pragma unroll
  for (int i = 0; i < kEarlyQuads; ++i) {
    const int q = threadIdx.x + i * kThreads;
    p[i] = q < quads ? load4(b.v + 4 * q) : make_float4(0, 0, 0, 0);
  }
  if (step_splits<V>(l)) put_batch_peaks(l, r, threadIdx.x, false, plane_marks(b, kVPeaks, 0));
  const double next = block_sum(share, reinterpret_cast<double*>(b.reduce));
  const float beta = static_cast<float>(next / rr);
  if (step_splits<V>(l)) block_bound_direction(l, b, beta);
#pragma unroll
  for (int i = 0; i < kEarlyQuads; ++i) {
    const int q = threadIdx.x + i * kThreads;
    r.quad[i] = axpy4(beta, p[i], r.quad[i]);
    if (q < quads) store4(b.v + 4 * q, r.quad[i]);
  }
  for (int q = threadIdx.x + kEarlyQuads * kThreads; q < quads; q += kThreads)
    store4(b.v + 4 * q, axpy4(beta, load4(b.v + 4 * q), load4(b.residual + 4 * q)));
  if constexpr (V::kSplit) {
    if (step_splits<V>(l)) {
      __syncthreads();  // the marks are complete
      put_all_maps<typename V::Half>(l, r, threadIdx.x, v_words(b));
    }
  }
  return next;
}

// What follows a product in plain CG, the same decisions from the same numbers in every block. True
// if another product is wanted, whose pass opens with the barrier that completes p.
template <class V>
__device__ __forceinline__ bool block_cg_step(const KernelArgs& a, const Block& b, Cg& s) {
  block_complete_product(a, b, s);
  const StepOperands early = load_operands(a, b, s);
  const double curvature = block_curvature(a, b, s, early);
  if (s.iterations == 0) s.first_curvature = curvature;
  const bool positive = curvature > 0 && !isinf(curvature);
  if (positive) {
    QuadBatch r;
    const double share = block_step_residual(a, b, s, static_cast<float>(s.rr / curvature), early,
                                             [&](int i, float4 quad) { r.quad[i] = quad; });
    s.rr = block_turn<V>(a, b, share, s.rr, r);
    ++s.iterations;
  }
  ++s.products;
  return positive && s.iterations < a.cg.iterations && s.rr > s.threshold;
}

struct SolutionNorms {
  double quad, norm2, linear_gain;  // x'Ax, x'x and g'x
};

// x'Ax = x'(g - r) by CG's own vectors. Opens with a grid barrier.
__device__ __forceinline__ SolutionNorms block_cg_finish(const KernelArgs& a, const Block& b) {
  const Layout& l = a.layout;
  grid_sync();  // every slice of x is complete
  struct Pair {
    float4 g, x;
  };
  double sums[3] = {};
  each_loaded<4>(
      threadIdx.x, l.packed / 4, kThreads,
      [&](int q) {
        return Pair{load4_global(b.gradient + 4 * q), load4_global(b.solution + 4 * q)};
      },
      [&](int q, const Pair& at) {
        sums[0] += dot4(at.x, axpy4(-1.0f, load4(b.residual + 4 * q), at.g));
        sums[1] += dot_self(at.x);
        sums[2] += dot4(at.g, at.x);
      });
  block_reduce(sums, reinterpret_cast<double*>(b.reduce));
  return {sums[0], sums[1], sums[2]};
}

}  // namespace
}  // namespace trpo_fast::cuda
