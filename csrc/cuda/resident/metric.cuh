// Stage metric: M J v row by row, and what else a row's distribution decides: the cotangent of the
// surrogate for the gradient, and KL, surrogate and entropy of a candidate. One thread per row, all
// formulas from heads.h.
#pragma once
#include "cuda/resident/forward.cuh"
#include "cuda/resident/split.cuh"

namespace trpo_fast::cuda {
namespace {

// Distribution of one row: outputs of the net and, for kGaussian, log_std of packed weights.
__device__ __forceinline__ DistRow dist_row(const KernelArgs& a, const float* outputs,
                                            const float* weights, int64_t n) {
  const Layout& l = a.layout;
  const float* second = l.head == Head::kGaussian ? weights + l.log_std : outputs + l.actions;
  return {{outputs, 1}, {second, 1}, a.rows.mask ? a.rows.mask + n * l.outputs : nullptr};
}

__device__ __forceinline__ DistVector dist_vector(const Layout& l, float* row) {
  return {{row, 1}, {row + l.actions, 1}};
}

__device__ __forceinline__ Action row_action(const KernelArgs& a, int64_t n) {
  return {a.rows.actions ? a.rows.actions + n * a.layout.actions : nullptr,
          a.rows.choices ? a.rows.choices + n * a.layout.actions : nullptr};
}

__device__ __forceinline__ void scale_row(float* row, int count, float factor) {
  for (int i = 0; i < count; ++i) row[i] *= factor;
}

// What the products need of the metric of every row of a tile under theta, once for all of them: where
// it is a diagonal, that times w kl_scale, otherwise the probabilities. Closes with a barrier.
__device__ __forceinline__ void block_metric_factors(const KernelArgs& a, const RowSet& set,
                                                     int64_t number, const Block& b, float* tile) {
  const Layout& l = a.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const int r = threadIdx.x;
  if (r < l.rows) {
    const float w = tile[l.row_weights + r];
    float* factors = tile + l.metric + r * m.stride_out;
    if (w > 0.0f) {
      const int64_t n = row_number(set, number * l.rows + r);
      head_metric_factors(a.net, dist_row(a, tile + m.output + r * m.stride_out, b.weights, n),
                          {factors, 1});
      if (l.diagonal) scale_row(factors, l.outputs, w * a.kl_scale);
    } else {
      for (int i = 0; i < l.outputs; ++i) factors[i] = 0.0f;
    }
  }
  __syncthreads();  // the factors are complete
}

// The share of log_std, whose block of the metric is 2 for every row, in the last work plane.
template <class V>
__device__ __forceinline__ void block_log_std_metric(const KernelArgs& a, const Block& b,
                                                     const float* tile) {
  constexpr int kRows = kRowGroups * V::kM;
  const Layout& l = a.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const int r = threadIdx.x % kRows;
  const float scale = 2.0f * a.kl_scale * on_chip(tile)[l.row_weights + r];
  float* row = on_chip(b.work) + m.tangent + r * m.stride_tangent + l.actions;
  for (int i = threadIdx.x / kRows; i < l.actions; i += kThreads / kRows)
    row[i] = scale * b.v[l.log_std + i];
}

// J v -> w kl_scale M J v in the last work plane, row by row.
template <class V>
__device__ __forceinline__ void block_row_metric(const KernelArgs& a, const RowSet& set,
                                                 int64_t number, const Block& b,
                                                 const float* tile) {
  const Layout& l = a.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const int r = threadIdx.x;
  if (r >= l.rows) return;
  float* row = b.work + m.tangent + r * m.stride_tangent;
  const float w = tile[l.row_weights + r];
  if (!(w > 0.0f)) {
    for (int i = 0; i < l.parameters; ++i) row[i] = 0.0f;
  } else if constexpr (V::kSplit) {
    const int64_t n = row_number(set, number * l.rows + r);
    const DistRow dist = dist_row(a, tile + m.output + r * m.stride_out, b.weights, n);
    const DistVector tangent = dist_vector(l, row);
    head_metric(a.net, dist, tangent, tangent);
    scale_row(row, l.parameters, w * a.kl_scale);
  } else {
    head_metric_apply(a.net, {tile + l.metric + r * m.stride_out, 1}, w * a.kl_scale, {row, 1});
  }
}

// The same where M is a diagonal, by all threads of the block: each a share of a row.
__device__ __forceinline__ void block_diagonal_metric(const KernelArgs& a, const Block& b,
                                                      const float* tile) {
  const Layout& l = a.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const RowShare at = row_share(l);
  const float w = on_chip(tile)[l.row_weights + at.row];
  const float scale = w > 0.0f ? w * a.kl_scale : 0.0f;
  const DistRow dist = dist_row(a, tile + m.output + at.row * m.stride_out, b.weights, 0);
  float* row = on_chip(b.work) + m.tangent + at.row * m.stride_tangent;
#pragma unroll 1
  for (int i = at.first; i < l.outputs; i += at.step)
#pragma unroll
    for (int k = i; k < i + 2; ++k)
      if (k < l.outputs)
        row[k] = w > 0.0f ? scale * (head_metric_factor(a.net, dist, k) * row[k]) : 0.0f;
  if (l.log_std < 0) return;
#pragma unroll 1
  for (int i = at.first / 2; i < l.actions; i += at.step / 2)
    row[l.actions + i] = 2.0f * scale * b.v[l.log_std + i];
}

// J v -> w kl_scale M J v in the last work plane; the total weight divides after the reduction.
// Rows of weight zero become zeros. In fp32 block_jvp has brought a diagonal along, and what is left
// needs no barrier of its own unless the net is one map. Closes with one otherwise.
template <class V>
__device__ __forceinline__ void block_metric(const KernelArgs& a, const RowSet& set, int64_t number,
                                             const Block& b, const float* tile) {
  const Layout& l = a.layout;
  if constexpr (V::kSplit) {
    if (l.diagonal) {
      block_diagonal_metric(a, b, tile);
    } else {
      block_row_metric<V>(a, set, number, b, tile);
      __syncthreads();  // the rows are complete
    }
    put_output_deltas<typename V::Half>(l, b);
  } else if (l.diagonal) {
    if (l.log_std >= 0) block_log_std_metric<V>(a, b, tile);
    if (l.maps > 1) return;
  } else {
    block_row_metric<V>(a, set, number, b, tile);
  }
  __syncthreads();  // deltas of the outputs are complete
}

// What one block adds up over its rows.
struct RowSums {
  double kl, surrogate, entropy, bad;
  float max_kl;
};

// log pi(a | s) of a row under the distribution of these outputs, and that distribution's entropy. Not
// inlined, being long and rare; behind the call the compiler is told which memory the pointers are to.
template <class V>
__device__ TRPO_NOINLINE float row_log_prob(const KernelArgs& a, int64_t n, const float* outputs,
                                            const float* weights) {
  const Action action = row_action(a, n);
  return head_log_prob(a.net, dist_row(a, on_chip(outputs), packed_at<V>(weights), n),
                       {off_chip(action.values), off_chip(action.choices)});
}
template <class V>
__device__ TRPO_NOINLINE float row_entropy(const KernelArgs& a, int64_t n, const float* outputs,
                                           const float* weights) {
  return head_entropy(a.net, dist_row(a, on_chip(outputs), packed_at<V>(weights), n));
}

// The same under what the row was sampled from, and the KL from there to the distribution of these
// outputs, or back. Not inlined: batches without old_params do without the code. Behind the call the
// compiler is told which memory the pointers are to.
__device__ __forceinline__ DistRow global_row(DistRow row) {
  return {{off_chip(row.first.base), 1}, {off_chip(row.second.base), 1}, off_chip(row.mask)};
}
__device__ __forceinline__ DistRow either(bool first, const DistRow& x, const DistRow& y) {
  return {{first ? x.first.base : y.first.base, 1},
          {first ? x.second.base : y.second.base, 1},
          first ? x.mask : y.mask};
}
__device__ TRPO_NOINLINE float sampler_log_prob(const KernelArgs& a, int64_t n) {
  const Action action = row_action(a, n);
  return head_log_prob(a.net, global_row(sampler_row(a.net, a.rows, n)),
                       {off_chip(action.values), off_chip(action.choices)});
}
__device__ TRPO_NOINLINE float sampler_kl(const KernelArgs& a, int64_t n, const float* outputs,
                                          const float* weights) {
  const DistRow sampler = global_row(sampler_row(a.net, a.rows, n));
  const DistRow now = dist_row(a, on_chip(outputs), weights, n);
  const bool back =
      a.search.reverse_kl;  // one copy of the code, at the price of a few generic loads
  return head_kl(a.net, either(back, now, sampler), either(back, sampler, now));
}

// pi_theta(a | s) / pi_old(a | s) of a row. The old policy's log-probability is that of old_params or
// the old outputs where the batch does not bring it; packed weights hold log_std.
template <class V>
__device__ __forceinline__ float row_ratio(const KernelArgs& a, int64_t n, const float* old_outputs,
                                           const float* old_weights, const float* outputs,
                                           const float* weights) {
  if (!choices_exist(a.net, a.rows, n)) return NAN;
  float before = 0;
  if (a.rows.log_probs) {
    before = a.rows.log_probs[n];
  } else if (a.rows.old_params) {
    before = sampler_log_prob(a, n);
  } else {
    before = row_log_prob<V>(a, n, old_outputs, old_weights);
  }
  return expf(row_log_prob<V>(a, n, outputs, weights) - before);
}

// KL of a row, from the policy that sampled it or theta to a candidate, or back.
__device__ __forceinline__ float row_kl(const KernelArgs& a, int64_t n, const float* old_outputs,
                                        const float* old_weights, const float* outputs,
                                        const float* weights) {
  if (a.rows.old_params) return sampler_kl(a, n, outputs, weights);
  const bool reverse = a.search.reverse_kl;
  const DistRow from =
      dist_row(a, reverse ? outputs : old_outputs, reverse ? weights : old_weights, n);
  const DistRow to =
      dist_row(a, reverse ? old_outputs : outputs, reverse ? old_weights : weights, n);
  return head_kl(a.net, from, to);
}

// What the gradient's pass needs beside the rows, and what it adds up.
struct Scores {
  const float* groups;  // [groups, 2]: W_g / sum w rho and S_g, null without groups
  RowSums sums;
};

// d surrogate / d parameters of every row into the last work plane, not yet divided by the total
// weight; zeros where the batch has no advantages, and only its values are looked at. Opens and
// closes with a barrier.
template <class V>
__device__ __forceinline__ void block_score(const KernelArgs& a, int64_t number, const Block& b,
                                            const float* tile, Scores& score) {
  const Layout& l = a.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const int r = threadIdx.x;
  __syncthreads();  // readers of the last tile's deltas are done
  const int64_t n = number * l.rows + r;
  const float w = r < l.rows ? tile[l.row_weights + r] : 0.0f;
  const bool used = w > 0.0f && usable_row(a.net, a.rows, n);
  if (w > 0.0f && !used) score.sums.bad += 1;
  float* row = r < l.rows ? b.work + m.tangent + r * m.stride_tangent : nullptr;
  if (row) {
    if (used && a.rows.advantages) {
      const float* outputs = tile + m.output + r * m.stride_out;
      const DistRow dist = dist_row(a, outputs, b.weights, n);
      const float ratio = row_ratio<V>(a, n, outputs, b.weights, outputs, b.weights);
      const float advantage = a.rows.advantages[n];
      float slope = w * ratio * advantage;
      score.sums.surrogate += score.groups ? 0.0 : double{slope};
      if (score.groups) {
        const float* group = score.groups + n / a.rows.group_size * 2;
        slope = __ldcg(group) * w * ratio * (advantage - __ldcg(group + 1));
      }
      score.sums.entropy += double{w} * row_entropy<V>(a, n, outputs, b.weights);
      head_score(a.net, dist, row_action(a, n), slope, dist_vector(l, row));
    } else {
      for (int i = 0; i < l.parameters; ++i) row[i] = 0.0f;
    }
  }
  if constexpr (V::kSplit) {
    __syncthreads();  // the rows are complete
    put_output_deltas<typename V::Half>(l, b);
  }
  __syncthreads();  // deltas of the outputs are complete
}

// Sums of the rows of a tile under a candidate: its outputs are in the last work plane, its packed
// parameters in b.v. With groups, w rho of each row goes to `ratios` [N] instead.
template <class V>
__device__ __forceinline__ void block_compare(const KernelArgs& a, int64_t number, const Block& b,
                                              const float* tile, float* ratios, RowSums& sums) {
  const Layout& l = a.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const int r = threadIdx.x;
  const int64_t n = number * l.rows + r;
  if (r >= l.rows || n >= a.rows.count) return;
  const float w = tile[l.row_weights + r];
  if (ratios) ratios[n] = 0.0f;
  if (!(w > 0.0f)) return;
  const float* outputs = tile + m.output + r * m.stride_out;
  const float* candidate = b.work + m.tangent + r * m.stride_tangent;
  const float kl = a.kl_scale * row_kl(a, n, outputs, b.weights, candidate, b.v);
  sums.kl += double{w} * kl;
  sums.max_kl = kl > sums.max_kl || kl != kl ? kl : sums.max_kl;
  sums.entropy += double{w} * row_entropy<V>(a, n, candidate, b.v);
  if (!a.rows.advantages) return;
  const float mass = w * row_ratio<V>(a, n, outputs, b.weights, candidate, b.v);
  if (ratios)
    ratios[n] = mass;
  else
    sums.surrogate += double{mass} * a.rows.advantages[n];
}

}  // namespace
}  // namespace trpo_fast::cuda
