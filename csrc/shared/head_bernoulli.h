// kBernoulli, independent yes/no choices from logits: trpo_fast/policy/heads/bernoulli.py.
#pragma once
#include "shared/head_row.h"

namespace trpo_fast {
namespace {

struct BernoulliHead {
  static constexpr Noise kNoise = Noise::kUniform;
  static constexpr bool kDiagonal = true;  // the metric, whose factors are then its diagonal in z

  // A
  TRPO_HOST_DEVICE static int columns(const NetShape& net) { return net.width[net.maps]; }

  // Floats of a row of metric_factors.
  TRPO_HOST_DEVICE static int metric_width(const NetShape& net) { return net.width[net.maps]; }

  TRPO_HOST_DEVICE static bool takes(float action) { return action == 0.0f || action == 1.0f; }

  TRPO_HOST_DEVICE static void metric(const NetShape& net, const DistRow& row,
                                      const DistVector& tangent, const DistVector& out) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      out.first[i] = sigmoid(row.first[i]) * sigmoid(-row.first[i]) * tangent.first[i];
    }
  }

  // The i-th of metric_factors.
  TRPO_HOST_DEVICE static float metric_factor(const NetShape&, const DistRow& row, int i) {
    return sigmoid(row.first[i]) * sigmoid(-row.first[i]);
  }

  TRPO_HOST_DEVICE static void metric_factors(const NetShape& net, const DistRow& row,
                                              Strided<float> factors) {
    const int actions = columns(net);
    TRPO_ROLLED
    for (int i = 0; i < actions; ++i) factors[i] = metric_factor(net, row, i);
  }

  TRPO_HOST_DEVICE static void metric_apply(const NetShape& net, Strided<const float> factors,
                                            float scale, Strided<float> tangent) {
    const int outputs = net.width[net.maps];
    for (int i = 0; i < outputs; ++i) tangent[i] *= scale * factors[i];
  }

  TRPO_HOST_DEVICE static void metric_root(const NetShape& net, const DistRow&,
                                           Strided<const float> factors, float scale,
                                           Strided<float> signs) {
    const int outputs = net.width[net.maps];
    TRPO_ROLLED
    for (int i = 0; i < outputs; ++i) signs[i] *= scale * sqrtf(factors[i]);
  }

  TRPO_HOST_DEVICE static float log_prob(const NetShape& net, const DistRow& row,
                                         const Action& action) {
    float total = 0.0f;
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      total -= softplus(action.values[i] > 0.5f ? -row.first[i] : row.first[i]);
    }
    return total;
  }

  TRPO_HOST_DEVICE static void score(const NetShape& net, const DistRow& row, const Action& action,
                                     float scale, const DistVector& out) {
    const int actions = columns(net);
    TRPO_ROLLED
    for (int i = 0; i < actions; ++i) {
      const float p = row.first[i];
      out.first[i] = scale * (action.values[i] > 0.5f ? sigmoid(-p) : -sigmoid(p));
    }
  }

  TRPO_HOST_DEVICE static float kl(const NetShape& net, const DistRow& p, const DistRow& q) {
    float total = 0.0f;
    const int actions = columns(net);
    TRPO_ROLLED
    for (int i = 0; i < actions; ++i) {
      const float a = p.first[i], b = q.first[i];
      total +=
          sigmoid(a) * (softplus(-b) - softplus(-a)) + sigmoid(-a) * (softplus(b) - softplus(a));
    }
    return total;
  }

  TRPO_HOST_DEVICE static float entropy(const NetShape& net, const DistRow& row) {
    float total = 0.0f;
    const int actions = columns(net);
    TRPO_ROLLED
    for (int i = 0; i < actions; ++i) {
      total += softplus(row.first[i]) - sigmoid(row.first[i]) * row.first[i];
    }
    return total;
  }

  TRPO_HOST_DEVICE static void sample(const NetShape& net, const DistRow& row, const float* noise,
                                      float* values, int64_t*) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) values[i] = noise[i] < sigmoid(row.first[i]) ? 1.0f : 0.0f;
  }
};

}  // namespace
}  // namespace trpo_fast
