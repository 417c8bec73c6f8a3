// Action heads: metric, KL, log-probability, its gradient, entropy and sampling of one row, defined once for g++, nvcc and the
// host emulation. Each head is a block in a file of its own, with the formulas of its file in
// trpo_fast/policy/heads/; here is the one place that chooses among them.
#pragma once
#include "shared/head_bernoulli.h"
#include "shared/head_beta.h"
#include "shared/head_categorical.h"
#include "shared/head_gaussian.h"

namespace trpo_fast {
namespace {

TRPO_HOST_DEVICE bool is_gaussian(Head head) {
  return head == Head::kGaussian || head == Head::kGaussianState;
}

// f of the head's block. Of the CUDA kernels kBeta is left out: its special functions in float64 would
// cost every other head registers, and trpo_fast/backends/cuda.py says so to whoever asks.
template <class F>
TRPO_HOST_DEVICE auto with_head(Head head, const F& f) {
  if (is_gaussian(head)) return f(GaussianHead{});
  if (head == Head::kBernoulli) return f(BernoulliHead{});
#if !defined(__CUDACC__)
  if (head == Head::kBeta) return f(BetaHead{});
#endif
  return f(CategoricalHead{});
}

// A: columns of the action tensor.
TRPO_HOST_DEVICE int action_columns(const NetShape& net) {
  if (net.head == Head::kNone) return net.width[net.maps];
  return with_head(net.head, [&](auto head) { return head.columns(net); });
}

// D: distribution parameters of a row.
TRPO_HOST_DEVICE int dist_params(const NetShape& net) {
  const int outputs = net.width[net.maps];
  return net.head == Head::kGaussian ? 2 * outputs : outputs;
}

// What row n was sampled from; the batch brings old_params.
TRPO_HOST_DEVICE DistRow sampler_row(const NetShape& net, const Rows& rows, int64_t n) {
  const int params = dist_params(net);
  const float* first = rows.old_params + n * params;
  return {{first, 1}, {first + params / 2, 1}, rows.mask ? rows.mask + n * params : nullptr};
}

// Floats of noise for one action.
TRPO_HOST_DEVICE int noise_columns(const NetShape& net) {
  const bool normal = with_head(net.head, [](auto head) { return head.kNoise == Noise::kNormal; });
  return normal ? action_columns(net) : net.width[net.maps];
}

// Whether a number can be an action's.
TRPO_HOST_DEVICE bool head_takes(const NetShape& net, float action) {
  return with_head(net.head, [&](auto head) { return head.takes(action); });
}

// Whether metric_factors are the diagonal of the metric, and how many floats they are.
TRPO_HOST_DEVICE bool metric_is_diagonal(const NetShape& net) {
  return with_head(net.head, [](auto head) { return head.kDiagonal; });
}
TRPO_HOST_DEVICE int metric_width(const NetShape& net) {
  return with_head(net.head, [&](auto head) { return head.metric_width(net); });
}

// Fisher information of the row times a tangent; `out` may be the tangent itself.
TRPO_HOST_DEVICE void head_metric(const NetShape& net, const DistRow& row,
                                  const DistVector& tangent, const DistVector& out) {
  return with_head(net.head, [&](auto head) { return head.metric(net, row, tangent, out); });
}

// The metric in two halves, for callers that multiply by it many times at one theta. First what
// depends on theta alone: the probabilities [Z] of the categorical heads, otherwise the diagonal of
// the metric in the net's outputs [Z], where that is all.
TRPO_HOST_DEVICE void head_metric_factors(const NetShape& net, const DistRow& row,
                                          Strided<float> factors) {
  return with_head(net.head, [&](auto head) { return head.metric_factors(net, row, factors); });
}

// One of the diagonal; 0 where the metric is none.
TRPO_HOST_DEVICE float head_metric_factor(const NetShape& net, const DistRow& row, int i) {
  return with_head(net.head, [&](auto head) {
    if constexpr (head.kDiagonal) return head.metric_factor(net, row, i);
    return 0.0f;
  });
}

// Then the product, scaled, in place on a tangent of the net's outputs [Z]. The log_std parameters
// of kGaussian stand apart: their block of the metric is 2 for every row.
TRPO_HOST_DEVICE void head_metric_apply(const NetShape& net, Strided<const float> factors,
                                        float scale, Strided<float> tangent) {
  return with_head(net.head,
                   [&](auto head) { return head.metric_apply(net, factors, scale, tangent); });
}

// scale S signs in place on signs [Z], where S S' is the metric in the net's outputs: over independent
// signs their products with each other average to it. `factors` are those of the row.
TRPO_HOST_DEVICE void head_metric_root(const NetShape& net, const DistRow& row,
                                       Strided<const float> factors, float scale,
                                       Strided<float> signs) {
  return with_head(net.head,
                   [&](auto head) { return head.metric_root(net, row, factors, scale, signs); });
}

TRPO_HOST_DEVICE float head_log_prob(const NetShape& net, const DistRow& row,
                                     const Action& action) {
  return with_head(net.head, [&](auto head) { return head.log_prob(net, row, action); });
}

// scale times the gradient of the log-probability in the distribution parameters.
TRPO_HOST_DEVICE void head_score(const NetShape& net, const DistRow& row, const Action& action,
                                 float scale, const DistVector& out) {
  return with_head(net.head, [&](auto head) { return head.score(net, row, action, scale, out); });
}

// KL(p || q) summed over action dimensions; p and q share one mask.
TRPO_HOST_DEVICE float head_kl(const NetShape& net, const DistRow& p, const DistRow& q) {
  return with_head(net.head, [&](auto head) { return head.kl(net, p, q); });
}

TRPO_HOST_DEVICE float head_entropy(const NetShape& net, const DistRow& row) {
  return with_head(net.head, [&](auto head) { return head.entropy(net, row); });
}

// One action from noise of the head's kind, as the head's `choose` in Python makes it.
TRPO_HOST_DEVICE void head_sample(const NetShape& net, const DistRow& row, const float* noise,
                                  float* values, int64_t* choices) {
  return with_head(net.head, [&](auto head) {
    if constexpr (head.kNoise != Noise::kNone) head.sample(net, row, noise, values, choices);
  });
}

}  // namespace
}  // namespace trpo_fast
