// kCategorical and kMultiCategorical, a choice for each factor: trpo_fast/policy/heads/categorical.py and
// multicategorical.py. Masked logits count as minus infinity: their probability is exactly zero and
// nothing is read from their tangents.
#pragma once
#include "shared/head_row.h"

namespace trpo_fast {
namespace {

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

struct CategoricalHead {
  static constexpr Noise kNoise = Noise::kUniform;
  static constexpr bool kDiagonal = false;  // the metric, whose factors are then its diagonal in z

  // A
  TRPO_HOST_DEVICE static int columns(const NetShape& net) { return net.factors; }

  // Floats of a row of metric_factors.
  TRPO_HOST_DEVICE static int metric_width(const NetShape& net) { return net.width[net.maps]; }

  // Their actions are choices, which bad_values.h judges.
  TRPO_HOST_DEVICE static bool takes(float action) { return usable_number(action); }

  TRPO_HOST_DEVICE static void metric(const NetShape& net, const DistRow& row,
                                      const DistVector& tangent, const DistVector& out) {
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

  TRPO_HOST_DEVICE static void metric_factors(const NetShape& net, const DistRow& row,
                                              Strided<float> factors) {
    TRPO_ROLLED
    for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
      const Softmax softmax = softmax_of(row, begin, net.nvec[f]);
      TRPO_ROLLED
      for (int i = begin; i < begin + net.nvec[f]; ++i) {
        factors[i] = allowed(row, i) ? softmax.prob(row.first[i]) : 0.0f;
      }
    }
  }

  TRPO_HOST_DEVICE static void metric_apply(const NetShape& net, Strided<const float> factors,
                                            float scale, Strided<float> tangent) {
    for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
      const int end = begin + net.nvec[f];
      float mean = 0.0f;
      for (int i = begin; i < end; ++i) mean += factors[i] * tangent[i];
      for (int i = begin; i < end; ++i) tangent[i] = scale * factors[i] * (tangent[i] - mean);
    }
  }

  // S = diag(sqrt p) - p sqrt(p)'
  TRPO_HOST_DEVICE static void metric_root(const NetShape& net, const DistRow&,
                                           Strided<const float> factors, float scale,
                                           Strided<float> signs) {
    TRPO_ROLLED
    for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
      const int end = begin + net.nvec[f];
      float mean = 0.0f;
      TRPO_ROLLED
      for (int i = begin; i < end; ++i) mean += sqrtf(factors[i]) * signs[i];
      TRPO_ROLLED
      for (int i = begin; i < end; ++i) {
        signs[i] = scale * (sqrtf(factors[i]) * signs[i] - factors[i] * mean);
      }
    }
  }

  TRPO_HOST_DEVICE static float log_prob(const NetShape& net, const DistRow& row,
                                         const Action& action) {
    float total = 0.0f;
    for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
      const int64_t choice = action.choices[f];  // one out of range has no probability
      const bool possible = choice >= 0 && choice < net.nvec[f] && allowed(row, begin + choice);
      total += possible ? softmax_of(row, begin, net.nvec[f]).log_prob(row.first[begin + choice])
                        : -INFINITY;
    }
    return total;
  }

  TRPO_HOST_DEVICE static void score(const NetShape& net, const DistRow& row, const Action& action,
                                     float scale, const DistVector& out) {
    TRPO_ROLLED
    for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
      const Softmax softmax = softmax_of(row, begin, net.nvec[f]);
      const int chosen = begin + static_cast<int>(action.choices[f]);
      TRPO_ROLLED
      for (int i = begin; i < begin + net.nvec[f]; ++i) {
        const float p = allowed(row, i) ? softmax.prob(row.first[i]) : 0.0f;
        out.first[i] = scale * ((i == chosen ? 1.0f : 0.0f) - p);
      }
    }
  }

  TRPO_HOST_DEVICE static float kl(const NetShape& net, const DistRow& p, const DistRow& q) {
    float total = 0.0f;
    TRPO_ROLLED
    for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
      const Softmax of_p = softmax_of(p, begin, net.nvec[f]);
      const Softmax of_q = softmax_of(q, begin, net.nvec[f]);
      TRPO_ROLLED
      for (int i = begin; i < begin + net.nvec[f]; ++i) {
        if (!allowed(p, i)) continue;
        const float a = of_p.log_prob(p.first[i]);
        total += expf(a) * (a - of_q.log_prob(q.first[i]));
      }
    }
    return total;
  }

  TRPO_HOST_DEVICE static float entropy(const NetShape& net, const DistRow& row) {
    float total = 0.0f;
    TRPO_ROLLED
    for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
      const Softmax softmax = softmax_of(row, begin, net.nvec[f]);
      TRPO_ROLLED
      for (int i = begin; i < begin + net.nvec[f]; ++i) {
        if (!allowed(row, i)) continue;
        const float log_p = softmax.log_prob(row.first[i]);
        total -= expf(log_p) * log_p;
      }
    }
    return total;
  }

  TRPO_HOST_DEVICE static void sample(const NetShape& net, const DistRow& row, const float* noise,
                                      float*, int64_t* choices) {
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
};

}  // namespace
}  // namespace trpo_fast
