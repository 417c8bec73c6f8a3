// Action heads: metric, KL, log-probability, its gradient, entropy and sampling of one row, defined once for g++, nvcc and the
// host emulation. The torch twin, formula for formula, is trpo_fast/policy/heads.py.
//
// A row's distribution parameters are two strided vectors: `first` holds means or logits [Z or A], `second` the log standard
// deviations [A] (the free parameters for kGaussian, the second half of z for kGaussianState, unused otherwise).
// Masked logits count as minus infinity: their probability is exactly zero and nothing is read from their tangents.
#pragma once
#include <math.h>

#include "shared/params.h"

#if defined(__CUDACC__)
#define TRPO_HOST_DEVICE __host__ __device__ __forceinline__
#define TRPO_ROLLED _Pragma("unroll 1")  // few turns each: nvcc's fourfold copies only cost code
#else
#define TRPO_HOST_DEVICE inline __attribute__((always_inline))
#define TRPO_ROLLED
#endif

// Every instruction-set unit of the CPU core gets its own copy, so none can leak into another.
namespace trpo_fast {
namespace {

template <class T>
struct Strided {
  T* base;
  int64_t stride;
  TRPO_HOST_DEVICE T& operator[](int i) const { return base[i * stride]; }
};

struct DistRow {
  Strided<const float> first;   // [A] means, or [Z] logits
  Strided<const float> second;  // [A] log_std
  const uint8_t* mask;          // [Z] or null
};

// A tangent, a cotangent or a gradient in distribution parameters, laid out like DistRow.
struct DistVector {
  Strided<float> first;
  Strided<float> second;
};

struct Action {
  const float* values;     // [A] for the Gaussians and Bernoulli
  const int64_t* choices;  // [factors] for the categorical heads
};

constexpr float kHalfLog2Pi = 0.918938533204672742f;

TRPO_HOST_DEVICE bool is_gaussian(Head head) {
  return head == Head::kGaussian || head == Head::kGaussianState;
}

// A: columns of the action tensor.
TRPO_HOST_DEVICE int action_columns(const NetShape& net) {
  const int outputs = net.width[net.maps];
  if (net.head == Head::kGaussianState) return outputs / 2;
  return net.factors > 0 ? net.factors : outputs;
}

// D: distribution parameters of a row.
TRPO_HOST_DEVICE int dist_params(const NetShape& net) {
  const int outputs = net.width[net.maps];
  return net.head == Head::kGaussian ? 2 * outputs : outputs;
}

TRPO_HOST_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// log(1 + exp(x)) without overflow or loss at either end.
TRPO_HOST_DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

TRPO_HOST_DEVICE bool allowed(const DistRow& row, int64_t i) { return !row.mask || row.mask[i]; }

// The soft-max over the allowed logits begin .. begin + n - 1. Kept as largest logit and sum, never as
// their log-sum-exp: subtracting that from a large logit would cost digits of every probability.
struct Softmax {
  float top, sum;
  TRPO_HOST_DEVICE float log_prob(float logit) const { return (logit - top) - logf(sum); }
  TRPO_HOST_DEVICE float prob(float logit) const { return expf(logit - top) / sum; }
};

TRPO_HOST_DEVICE Softmax softmax_of(const DistRow& row, int begin, int n) {
  Softmax s = {-INFINITY, 0.0f};
  TRPO_ROLLED
  for (int i = begin; i < begin + n; ++i) {
    if (allowed(row, i)) s.top = fmaxf(s.top, row.first[i]);
  }
  TRPO_ROLLED
  for (int i = begin; i < begin + n; ++i) {
    if (allowed(row, i)) s.sum += expf(row.first[i] - s.top);
  }
  return s;
}

// Fisher information of the row times a tangent; `out` may be the tangent itself.
TRPO_HOST_DEVICE void head_metric(const NetShape& net, const DistRow& row,
                                  const DistVector& tangent, const DistVector& out) {
  if (is_gaussian(net.head)) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      out.first[i] = expf(-2.0f * row.second[i]) * tangent.first[i];
      out.second[i] = 2.0f * tangent.second[i];
    }
    return;
  }
  if (net.head == Head::kBernoulli) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      out.first[i] = sigmoid(row.first[i]) * sigmoid(-row.first[i]) * tangent.first[i];
    }
    return;
  }
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    const int end = begin + net.nvec[f];
    const Softmax softmax = softmax_of(row, begin, net.nvec[f]);
    float mean = 0.0f;
    for (int i = begin; i < end; ++i) {
      if (allowed(row, i)) mean += softmax.prob(row.first[i]) * tangent.first[i];
    }
    for (int i = begin; i < end; ++i) {
      out.first[i] =
          allowed(row, i) ? softmax.prob(row.first[i]) * (tangent.first[i] - mean) : 0.0f;
    }
  }
}

// The metric in two halves, for callers that multiply by it many times at one theta. First what
// depends on theta alone: the probabilities [Z] of the categorical heads, otherwise the diagonal of
// the metric in the net's outputs [Z].
TRPO_HOST_DEVICE void head_metric_factors(const NetShape& net, const DistRow& row,
                                          Strided<float> factors) {
  if (is_gaussian(net.head)) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      factors[i] = expf(-2.0f * row.second[i]);
      if (net.head == Head::kGaussianState) factors[actions + i] = 2.0f;
    }
    return;
  }
  if (net.head == Head::kBernoulli) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      factors[i] = sigmoid(row.first[i]) * sigmoid(-row.first[i]);
    }
    return;
  }
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    const Softmax softmax = softmax_of(row, begin, net.nvec[f]);
    for (int i = begin; i < begin + net.nvec[f]; ++i) {
      factors[i] = allowed(row, i) ? softmax.prob(row.first[i]) : 0.0f;
    }
  }
}

// Then the product, scaled, in place on a tangent of the net's outputs [Z]. The log_std parameters
// of kGaussian stand apart: their block of the metric is 2 for every row.
TRPO_HOST_DEVICE void head_metric_apply(const NetShape& net, Strided<const float> factors,
                                        float scale, Strided<float> tangent) {
  if (is_gaussian(net.head) || net.head == Head::kBernoulli) {
    const int outputs = net.width[net.maps];
    for (int i = 0; i < outputs; ++i) tangent[i] *= scale * factors[i];
    return;
  }
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    const int end = begin + net.nvec[f];
    float mean = 0.0f;
    for (int i = begin; i < end; ++i) mean += factors[i] * tangent[i];
    for (int i = begin; i < end; ++i) tangent[i] = scale * factors[i] * (tangent[i] - mean);
  }
}

TRPO_HOST_DEVICE float head_log_prob(const NetShape& net, const DistRow& row,
                                     const Action& action) {
  float total = 0.0f;
  if (is_gaussian(net.head)) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      const float standard = (action.values[i] - row.first[i]) * expf(-row.second[i]);
      total += -0.5f * standard * standard - row.second[i] - kHalfLog2Pi;
    }
    return total;
  }
  if (net.head == Head::kBernoulli) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      total -= softplus(action.values[i] > 0.5f ? -row.first[i] : row.first[i]);
    }
    return total;
  }
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    const int64_t choice = action.choices[f];  // one out of range has no probability
    const bool possible = choice >= 0 && choice < net.nvec[f] && allowed(row, begin + choice);
    total += possible ? softmax_of(row, begin, net.nvec[f]).log_prob(row.first[begin + choice])
                      : -INFINITY;
  }
  return total;
}

// scale times the gradient of the log-probability in the distribution parameters.
TRPO_HOST_DEVICE void head_score(const NetShape& net, const DistRow& row, const Action& action,
                                 float scale, const DistVector& out) {
  if (is_gaussian(net.head)) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      const float inverse_std = expf(-row.second[i]);
      const float standard = (action.values[i] - row.first[i]) * inverse_std;
      out.first[i] = scale * standard * inverse_std;
      out.second[i] = scale * (standard * standard - 1.0f);
    }
    return;
  }
  if (net.head == Head::kBernoulli) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      const float p = row.first[i];
      out.first[i] = scale * (action.values[i] > 0.5f ? sigmoid(-p) : -sigmoid(p));
    }
    return;
  }
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    const Softmax softmax = softmax_of(row, begin, net.nvec[f]);
    const int chosen = begin + static_cast<int>(action.choices[f]);
    for (int i = begin; i < begin + net.nvec[f]; ++i) {
      const float p = allowed(row, i) ? softmax.prob(row.first[i]) : 0.0f;
      out.first[i] = scale * ((i == chosen ? 1.0f : 0.0f) - p);
    }
  }
}

// KL(p || q) summed over action dimensions; p and q share one mask.
TRPO_HOST_DEVICE float head_kl(const NetShape& net, const DistRow& p, const DistRow& q) {
  float total = 0.0f;
  if (is_gaussian(net.head)) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      const float ratio = p.second[i] - q.second[i];
      const float shift = (p.first[i] - q.first[i]) * expf(-q.second[i]);
      total += 0.5f * (expm1f(2.0f * ratio) + shift * shift) - ratio;
    }
    return total;
  }
  if (net.head == Head::kBernoulli) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      const float a = p.first[i], b = q.first[i];
      total +=
          sigmoid(a) * (softplus(-b) - softplus(-a)) + sigmoid(-a) * (softplus(b) - softplus(a));
    }
    return total;
  }
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    const Softmax of_p = softmax_of(p, begin, net.nvec[f]);
    const Softmax of_q = softmax_of(q, begin, net.nvec[f]);
    for (int i = begin; i < begin + net.nvec[f]; ++i) {
      if (!allowed(p, i)) continue;
      const float a = of_p.log_prob(p.first[i]);
      total += expf(a) * (a - of_q.log_prob(q.first[i]));
    }
  }
  return total;
}

TRPO_HOST_DEVICE float head_entropy(const NetShape& net, const DistRow& row) {
  float total = 0.0f;
  if (is_gaussian(net.head)) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) total += row.second[i] + kHalfLog2Pi + 0.5f;
    return total;
  }
  if (net.head == Head::kBernoulli) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) {
      total += softplus(row.first[i]) - sigmoid(row.first[i]) * row.first[i];
    }
    return total;
  }
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    const Softmax softmax = softmax_of(row, begin, net.nvec[f]);
    for (int i = begin; i < begin + net.nvec[f]; ++i) {
      if (!allowed(row, i)) continue;
      const float log_p = softmax.log_prob(row.first[i]);
      total -= expf(log_p) * log_p;
    }
  }
  return total;
}

// One action from noise: standard normal [A] for the Gaussians, uniform in [0, 1) [Z] otherwise.
// The categorical heads add Gumbel noise to the logits and take the largest, as trpo_fast/policy/heads.py does.
TRPO_HOST_DEVICE void head_sample(const NetShape& net, const DistRow& row, const float* noise,
                                  float* values, int64_t* choices) {
  if (is_gaussian(net.head)) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) values[i] = row.first[i] + expf(row.second[i]) * noise[i];
    return;
  }
  if (net.head == Head::kBernoulli) {
    const int actions = action_columns(net);
    for (int i = 0; i < actions; ++i) values[i] = noise[i] < sigmoid(row.first[i]) ? 1.0f : 0.0f;
    return;
  }
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    float best = -INFINITY;
    choices[f] = 0;
    for (int i = begin; i < begin + net.nvec[f]; ++i) {
      if (!allowed(row, i)) continue;
      const float gumbel = row.first[i] - logf(-logf(fmaxf(noise[i], 1.17549435e-38f)));
      if (gumbel > best) {
        best = gumbel;
        choices[f] = i - begin;
      }
    }
  }
}

}  // namespace
}  // namespace trpo_fast
