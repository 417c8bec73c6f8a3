// The resident kernel: whole programs (products, a gradient, solves, an update, an evaluation) in
// one cooperative launch, from the stages. See config.h for what stays on chip.
//
// Every program is a sequence of passes over the rows, so the kernel is one loop around one pass;
// what follows a pass decides whether there is another.
#pragma once
#include "cuda/resident/line_search.cuh"
#include "cuda/resident/pcg_resident.cuh"

namespace trpo_fast::cuda {
namespace {

// Packed theta for every product, zeros in every plane, and the tiles of the products filled.
// Returns 1 in a thread that met an unusable value.
template <class V>
__device__ __forceinline__ int block_setup(const KernelArgs& a, const Block& b) {
  const Layout& l = a.layout;
  block_zero(b.work, l.work);
  block_zero(b.tiles, (a.plan.resident_tiles + a.plan.work_tile) * l.tile);
  if (a.atomics) block_clear_sum(l, b, atomic_sum(l, b, 0));
  const Party party = V::kStreamed ? grid_party(b) : block_party();
  pack_flat<V>(a, a.theta, b.weights, party.thread, party.threads);
  if (V::kStreamed || a.atomics) grid_sync();  // packed theta and the cleared sum are complete
  __syncthreads();                             // and so is what the block wrote for itself
  block_split_weights<V>(l, b);
  return block_forward_tiles<V>(a, b);
}

// What one launch knows as it goes along, the same in every thread of every block.
struct Run {
  Cg cg;
  Pcg pcg;
  SolutionNorms solution;
  int column;  // right-hand side at work
};

__device__ __forceinline__ bool reports(const Block& b) { return b.index == 0 && threadIdx.x == 0; }

enum EvaluateStat : int {
  kEvaluateKl,
  kEvaluateMaxKl,
  kEvaluateSurrogate,
  kEvaluateEntropy,
  kEvaluateBad,
};

// What a launch does next, each at one place of the code. Those before kPass lead to a pass or to kDone.
enum class Next : int {
  kColumn,     // the column at work, if any, goes out solved, the next one comes in
  kBegin,      // CG begins where p = r = g
  kDirection,  // guided: the next p from r
  kPass,       // over the rows
  kDone,
};

template <bool kGuided>
__device__ __forceinline__ Next block_begin(const KernelArgs& a, const Block& b, Run& run) {
  const bool wanted = block_cg_start(a, b, run.cg);
  run.pcg.plain = false;
  if (!wanted) return Next::kColumn;
  if constexpr (kGuided) {
    pcg_start(run.cg, run.pcg);
    if (!run.pcg.plain) return Next::kDirection;
  }
  return Next::kPass;
}

// 1 where a preconditioner failed.
__device__ __forceinline__ double restarts(const KernelArgs& a, const Run& run) {
  return a.cg.factor_stride > 0 && run.pcg.plain;
}

// Right-hand side run.column into p (and r, g).
template <class V>
__device__ __forceinline__ void block_load_column(const KernelArgs& a, const Block& b,
                                                  const Run& run) {
  const Layout& l = a.layout;
  pack_flat<V>(a, a.v + int64_t{run.column} * l.flat, b.v, threadIdx.x, kThreads);
  __syncthreads();  // it is packed
  if (a.program == kProgramFvp) return;
  each_loaded<kEarlyQuads>(
      threadIdx.x, l.packed / 4, kThreads, [&](int q) { return load4(b.v + 4 * q); },
      [&](int q, float4 g) {
        store4(b.residual + 4 * q, g);
        if (b.index == 0) store4(b.gradient + 4 * q, g);
      });
}

// A solved column out. Opens with a grid barrier.
__device__ __forceinline__ void block_store_column(const KernelArgs& a, const Block& b, Run& run) {
  run.solution = block_cg_finish(a, b);
  if (a.program != kProgramSolve) {  // at once: kept until the end it would cost registers
    if (reports(b)) a.stats[kStatLinearGain] = run.solution.linear_gain;
    return;
  }
  block_unpack(a.layout, b, a.out + int64_t{run.column} * a.layout.flat,
               [&](int i) { return __ldcg(b.solution + i); });
  if (!reports(b)) return;
  double* stats = a.stats + run.column * kSolvedCount;
  stats[kSolvedQuad] = run.solution.quad;
  stats[kSolvedResidual] = sqrt(run.cg.rr);
  stats[kSolvedIterations] = run.cg.iterations;
  stats[kSolvedFirstCurvature] = run.cg.first_curvature;
  stats[kSolvedLinearGain] = run.solution.linear_gain;
  stats[kSolvedRestarts] = restarts(a, run);
}

// From a column that is done (-1: there was none yet) to the next.
template <class V>
__device__ __forceinline__ Next block_next_column(const KernelArgs& a, const Block& b, Run& run) {
  if (run.column >= 0 && a.program != kProgramFvp) block_store_column(a, b, run);
  if (++run.column >= a.columns) return Next::kDone;
  if (run.column > 0) grid_sync();  // the last column's vectors have been read
  block_load_column<V>(a, b, run);
  return a.program == kProgramFvp ? Next::kPass : Next::kBegin;
}

// Whatever comes before the next pass: kPass, or kDone where there is none.
template <class V, bool kGuided>
__device__ __forceinline__ Next block_prepare(const KernelArgs& a, const Block& b, Run& run,
                                              Next next) {
  while (next < Next::kPass) {
    if (next == Next::kColumn) next = block_next_column<V>(a, b, run);
    if (next == Next::kBegin) next = block_begin<kGuided>(a, b, run);
    if constexpr (kGuided) {
      if (next == Next::kDirection) {
        block_direction(a, b, run.cg, run.pcg);
        next = Next::kPass;
      }
    }
  }
  return next;
}

// A finished product: the answer itself, or one step of CG.
template <class V, bool kGuided>
__device__ __forceinline__ Next block_use_product(const KernelArgs& a, const Block& b, Run& run) {
  grid_sync();  // partial vectors (or sums) of all blocks are complete
  if (run.cg.scale == 0) run.cg.scale = static_cast<float>(1.0 / collect_totals(b).fvp_weight);
  if constexpr (kGuided)
    return block_pcg_step(a, b, run.cg, run.pcg) ? Next::kDirection : Next::kColumn;
  if (a.program != kProgramFvp) return block_cg_step<V>(a, b, run.cg) ? Next::kPass : Next::kColumn;
  float* out = a.out + int64_t{run.column} * a.layout.flat;
  block_reduce_to_flat(a.layout, b, b.reduced, out, [&](int quad, float4 sum) {
    return finish_quad(a, b, quad, sum, run.cg.scale);
  });
  return Next::kColumn;
}

__device__ __forceinline__ bool has_bad_values(const Totals& t) {
  return t.bad != 0 || !(t.weight > 0) || !(t.fvp_weight > 0);
}

__device__ __forceinline__ void report_evaluation(const KernelArgs& a, const Measures& e,
                                                  bool bad) {
  a.stats[kEvaluateKl] = e.kl;
  a.stats[kEvaluateMaxKl] = e.max_kl;
  a.stats[kEvaluateSurrogate] = e.surrogate;
  a.stats[kEvaluateEntropy] = e.entropy;
  a.stats[kEvaluateBad] = bad;
}

// Why no step can be taken along the solution; kAccepted if one can.
__device__ __forceinline__ Reason solution_reason(const Run& run, const Totals& t) {
  if (has_bad_values(t)) return kBadValues;
  if (!isfinite(run.cg.gradient_norm2) || !isfinite(run.solution.norm2) ||
      !isfinite(run.cg.first_curvature))
    return kNonFinite;
  if (run.cg.gradient_norm2 == 0) return kZeroGradient;
  return run.cg.first_curvature <= 0 ? kNegativeCurvature : kAccepted;
}

// Line search along the solution (or the one evaluation asked for), the step if it is good, and the
// statistics.
template <class V>
__device__ __forceinline__ void block_move(const KernelArgs& a, const Block& b, Run& run) {
  const bool update = a.program == kProgramUpdate;
  Totals t = {};
  if (update) t = collect_totals(b);  // again: kept until here they would cost registers
  Reason reason = update ? solution_reason(run, t) : kAccepted;
  Search s = block_line_search<V>(a, b, &t, run.solution.quad, &reason);
  if (!update) {
    if (reports(b)) report_evaluation(a, s.after, has_bad_values(t));
    return;
  }
  const double before = t.surrogate / t.weight;
  if (s.found) {
    const float step = static_cast<float>(s.step);
    block_unpack(a.layout, b, a.theta_out,
                 [&](int i) { return fmaf(step, __ldcg(b.solution + i), b.weights[i]); });
  } else {
    if (reason == kAccepted) reason = a.search.search ? kLineSearchFailed : kNonFinite;
    s.after = {s.call.kl, s.call.max_kl, before, t.entropy / t.weight};
    s.step = 0;
  }
  if (!reports(b)) return;
  const double stats[kStatLinearGain] = {double(reason),
                                         s.after.kl,
                                         s.after.max_kl,
                                         before,
                                         s.after.surrogate,
                                         s.after.entropy,
                                         s.step,
                                         double(s.backtracks),
                                         run.solution.quad,
                                         sqrt(run.cg.rr),
                                         double(run.cg.iterations),
                                         sqrt(run.cg.gradient_norm2)};
  for (int i = 0; i < kStatLinearGain; ++i) a.stats[i] = stats[i];
  a.stats[kStatFactorRows] = static_cast<double>(a.factors.picked);
  a.stats[kStatScaledBlocks] = 0;
  a.stats[kStatRestarts] = restarts(a, run);
}

template <class V>
__device__ __forceinline__ Next block_use_gradient(const KernelArgs& a, const Block& b, Run& run,
                                                   const Scores& score, double group_surrogate) {
  const Totals t = block_finish_gradient<V>(a, b, score.sums, group_surrogate);
  if (a.program == kProgramUpdate) return Next::kBegin;
  block_unpack(a.layout, b, a.out, [&](int i) { return __ldcg(b.gradient + i); });
  if (reports(b))
    report_evaluation(a, {0, 0, t.surrogate / t.weight, t.entropy / t.weight}, has_bad_values(t));
  return Next::kDone;
}

// Where a launch begins, which of the columns is at work being known.
__device__ __forceinline__ Next first_of(const KernelArgs& a, Run& run) {
  if (a.program == kProgramEvaluate) return Next::kDone;
  if (a.program == kProgramUpdate || a.program == kProgramGradient) return Next::kPass;
  run.column = -1;
  return Next::kColumn;
}

// kGuided: solves and updates with a preconditioner or a stop by gain.
template <class V, bool kGuided>
__global__ void __launch_bounds__(kThreads, 1)
    resident_kernel(const __grid_constant__ KernelArgs a) {
  DYN_SMEM(shared);
  const Block b = make_block<V>(a, shared);
  Run run = {};
  Scores score = {};
  double group_surrogate = 0;

  // ---- forward
  score.sums.bad = block_setup<V>(a, b);

  // ---- factors
  if constexpr (kGuided) {
    if (a.factors.count) {
      block_factors<V>(a, b);
      run.pcg.usable = block_invert_factors(a, b);
    }
  }

  // ---- what precedes the first pass
  Next next = first_of(a, run);
  bool scoring = next == Next::kPass;
  if (scoring && a.rows.group_size) {
    group_surrogate = block_group_gradient<V>(a, b);
    score.groups = group_table(a);
  }
  if (!scoring) block_publish_setup<V>(a, score.sums.bad, 0, 0, 0);

  // ---- gradient, and every product of fvp and cg
  while ((next = block_prepare<V, kGuided>(a, b, run, next)) != Next::kDone) {
    float* sum = scoring ? nullptr : product_sum(a, b, run.cg);
    const bool stepped = !kGuided && run.cg.iterations > 0 && step_splits<V>(a.layout);
    block_pass<V>(a, b, scoring ? batch_set(a) : fvp_set(a), sum, scoring, !scoring && !stepped,
                  score);
    next = scoring ? block_use_gradient<V>(a, b, run, score, group_surrogate)
                   : block_use_product<V, kGuided>(a, b, run);
    scoring = false;
  }

  // ---- step, line_search
  if (a.program == kProgramUpdate || a.program == kProgramEvaluate) block_move<V>(a, b, run);
}

}  // namespace
}  // namespace trpo_fast::cuda
