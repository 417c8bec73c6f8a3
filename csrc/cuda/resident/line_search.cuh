// Stages step and line_search: theta + beta c^j x, evaluated a batch of candidates at a time between
// two grid barriers, the first acceptable one taken by all blocks alike.
#pragma once
#include "cuda/resident/gradient.cuh"

namespace trpo_fast::cuda {
namespace {

struct Measures {
  double kl, max_kl, surrogate, entropy;
};

// What a block publishes of one candidate.
enum CandidateScalar : int { kKl, kMaxKl, kGain, kCandidateEntropy, kCandidateScalars };
static_assert(kMaxSearchBatch * kCandidateScalars <= kScalars);

// Sums of this block's rows under the packed parameters in b.v, published as candidate c.
// `taint` joins the KL: NaN where a parameter is not finite.
template <class V>
__device__ __forceinline__ void block_evaluate(const KernelArgs& a, const Block& b, int region,
                                               int c, float taint) {
  const Layout& l = a.layout;
  const RowSet set = batch_set(a);
  RowSums sums = {taint, 0, 0, 0, 0};
  int bad = 0;
  block_split_v<V>(l, b);
  each_tile(a, b, set, [&](int64_t number, int64_t place) {
    float* tile = block_fetch<V>(a, b, set, number, place, &bad);
    block_forward_candidate<V>(l, b, tile);
    block_compare<V>(a, number, b, tile, ratio_row(a, c), sums);
  });
  double parts[3] = {sums.kl, sums.surrogate, sums.entropy}, most[1] = {sums.max_kl};
  double* scratch = reinterpret_cast<double*>(b.reduce);
  block_reduce(parts, scratch);  // its barriers are behind the last reader of b.v, too
  block_reduce(most, scratch, Max{});
  if (threadIdx.x != 0) return;
  double* to = published(b, region) + b.index * kScalars + c * kCandidateScalars;
  to[kKl] = parts[0];
  to[kMaxKl] = most[0];
  to[kGain] = parts[1];
  to[kCandidateEntropy] = parts[2];
}

// Grid barriers that complete `count` published candidates: one, and one more with groups.
__device__ __forceinline__ void block_complete_candidates(const KernelArgs& a, const Block& b,
                                                          int region, int count) {
  if (a.rows.group_size && a.rows.advantages) {
    grid_sync();  // w rho of every row and candidate is written
    for (int c = 0; c < count; ++c) {
      const double gain = block_groups(a, b, ratio_row(a, c), nullptr);
      if (threadIdx.x == 0)
        published(b, region)[b.index * kScalars + c * kCandidateScalars + kGain] = gain;
    }
  }
  grid_sync();  // every block's sums are published
}

__device__ __forceinline__ Measures collect_candidate(const Block& b, int region, int c,
                                                      double weight) {
  const double* first = published(b, region) + c * kCandidateScalars;
  const auto combine = [](int i, double x, double y) { return i == kMaxKl ? Max{}(x, y) : x + y; };
  const auto [t] = warp_totals<kCandidateScalars>(first, b.grid, combine);
  return {t[kKl] / weight, t[kMaxKl], t[kGain] / weight, t[kCandidateEntropy] / weight};
}

// One quad of theta + step x, x being given there.
__device__ __forceinline__ float4 candidate_quad(const Block& b, int quad, float step, float4 x) {
  return axpy4(step, x, load4(b.weights + 4 * quad));
}

struct Search {
  int backtracks;  // the j accepted, or the number of candidates
  bool found;
  double step;  // factor on x of the accepted candidate
  Measures after;
  Measures call;  // theta against the policy that sampled the rows
};

// The KL that max_kl limits.
__device__ __forceinline__ double limited(const KernelArgs& a, const Measures& e) {
  return a.search.search && a.search.limit_max ? e.max_kl : e.kl;
}

__device__ __forceinline__ bool acceptable(const KernelArgs& a, const Measures& e, double before) {
  if (!isfinite(e.kl) || !isfinite(e.surrogate)) return false;
  return !a.search.search || (limited(a, e) <= a.search.max_kl && e.surrogate > before);
}

// Candidate number j: theta + full_step c^j x; theta itself for a step of 0, whatever x is; or, to
// evaluate a given policy, the parameters there.
// Returns NaN in a thread that wrote a candidate's NaN or infinity, otherwise 0.
template <class V>
__device__ __forceinline__ float block_candidate(const KernelArgs& a, const Block& b, double step) {
  if (a.program == kProgramEvaluate) {
    pack_flat<V>(a, a.v, b.v, threadIdx.x, kThreads);
    return 0;
  }
  float taint = 0;
  each_loaded<8>(
      threadIdx.x, a.layout.packed / 4, kThreads,
      [&](int q) { return load4_global(b.solution + 4 * q); },
      [&](int q, float4 x) {
        const float4 quad = step == 0 ? load4(b.weights + 4 * q)
                                      : candidate_quad(b, q, static_cast<float>(step), x);
        store4(b.v + 4 * q, quad);
        taint += 0 * quad.x + 0 * quad.y + 0 * quad.z + 0 * quad.w;
      });
  return taint;
}

// Stage step: the factor on x of the first trial, as in trpo_fast/core/reference.py. `call` is theta
// against the policy that sampled the rows, where they bring what that was.
__device__ __forceinline__ double first_trial(const KernelArgs& a, const Measures& call,
                                              double quad) {
  const double max_kl = a.search.max_kl;
  if (a.learning_rate > 0) return a.learning_rate;
  if (!a.rows.old_params) return sqrt(2.0 * max_kl / quad);
  return (sqrt(max_kl) - sqrt(fmax(call.kl, 0.0))) * sqrt(2.0 / quad);
}

// Whether the call has left some of max_kl.
__device__ __forceinline__ Reason room_left(const KernelArgs& a, const Measures& call) {
  const double used = limited(a, call);
  if (a.learning_rate > 0 || used < a.search.max_kl) return kAccepted;
  return isfinite(used) ? kAtKlLimit : kNonFinite;
}

// Line search along the solution, or the one evaluation asked for; `reason` is why there can be none.
// Where rows bring what they were sampled from, theta itself comes first, as candidate -1. `totals`
// are collected here if they are not known yet.
template <class V>
__device__ __forceinline__ Search block_line_search(const KernelArgs& a, const Block& b,
                                                    Totals* totals, double quad, Reason* reason) {
  const int steps = a.search.search ? a.search.backtrack_steps : 1;
  const bool sampled = a.program == kProgramUpdate && a.rows.old_params;
  Search s = {steps, false, 0, {}, {}};
  double next = 0;
  int j = sampled ? -1 : 0;
  for (int parity = 0; j < 0 || (j < steps && !s.found && *reason == kAccepted); parity ^= 1) {
    if (j == 0) next = first_trial(a, s.call, quad);
    const int count = j < 0 ? 1 : min(a.plan.search_batch, steps - j);
    const int region = kRegionSearch + parity;
    double tried = next;
    for (int c = 0; c < count; ++c, next *= a.search.backtrack_ratio) {
      block_evaluate<V>(a, b, region, c, block_candidate<V>(a, b, next));
    }
    block_complete_candidates(a, b, region, count);
    if (!totals->known) *totals = collect_totals(b);
    const double before = totals->surrogate / totals->weight;
    for (int c = 0; c < count && !s.found; ++c, tried *= a.search.backtrack_ratio) {
      s.after = collect_candidate(b, region, c, totals->weight);
      s.found = j >= 0 && acceptable(a, s.after, before);
      s.step = tried;
      s.backtracks = j + c;
    }
    if (j < 0) {
      s.call = s.after;
      if (*reason == kAccepted) *reason = room_left(a, s.call);
    }
    j += count;
  }
  if (!s.found) s.backtracks = steps;
  return s;
}

}  // namespace
}  // namespace trpo_fast::cuda
