// The diagonal Gaussians, kGaussian and kGaussianState: trpo_fast/policy/heads/gaussian.py.
#pragma once
#include "shared/head_row.h"

namespace trpo_fast {
namespace {

constexpr float kHalfLog2Pi = 0.918938533204672742f;

struct GaussianHead {
  static constexpr Noise kNoise = Noise::kNormal;
  static constexpr bool kDiagonal = true;  // the metric, whose factors are then its diagonal in z

  // A
  TRPO_HOST_DEVICE static int columns(const NetShape& net) {
    const int outputs = net.width[net.maps];
    return net.head == Head::kGaussianState ? outputs / 2 : outputs;
  }

  // Floats of a row of metric_factors.
  TRPO_HOST_DEVICE static int metric_width(const NetShape& net) { return net.width[net.maps]; }

  TRPO_HOST_DEVICE static bool takes(float action) { return usable_number(action); }

  TRPO_HOST_DEVICE static void metric(const NetShape& net, const DistRow& row,
                                      const DistVector& tangent, const DistVector& out) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      out.first[i] = expf(-2.0f * row.second[i]) * tangent.first[i];
      out.second[i] = 2.0f * tangent.second[i];
    }
  }

  // The i-th of metric_factors.
  TRPO_HOST_DEVICE static float metric_factor(const NetShape& net, const DistRow& row, int i) {
    return i < columns(net) ? expf(-2.0f * row.second[i]) : 2.0f;
  }

  TRPO_HOST_DEVICE static void metric_factors(const NetShape& net, const DistRow& row,
                                              Strided<float> factors) {
    const int actions = columns(net);
    TRPO_ROLLED
    for (int i = 0; i < actions; ++i) {
      factors[i] = expf(-2.0f * row.second[i]);
      if (net.head == Head::kGaussianState) factors[actions + i] = 2.0f;
    }
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
      const float standard = (action.values[i] - row.first[i]) * expf(-row.second[i]);
      total += -0.5f * standard * standard - row.second[i] - kHalfLog2Pi;
    }
    return total;
  }

  TRPO_HOST_DEVICE static void score(const NetShape& net, const DistRow& row, const Action& action,
                                     float scale, const DistVector& out) {
    const int actions = columns(net);
    TRPO_ROLLED
    for (int i = 0; i < actions; ++i) {
      const float inverse_std = expf(-row.second[i]);
      const float standard = (action.values[i] - row.first[i]) * inverse_std;
      out.first[i] = scale * standard * inverse_std;
      out.second[i] = scale * (standard * standard - 1.0f);
    }
  }

  TRPO_HOST_DEVICE static float kl(const NetShape& net, const DistRow& p, const DistRow& q) {
    float total = 0.0f;
    const int actions = columns(net);
    TRPO_ROLLED
    for (int i = 0; i < actions; ++i) {
      const float ratio = p.second[i] - q.second[i];
      const float shift = (p.first[i] - q.first[i]) * expf(-q.second[i]);
      total += 0.5f * (expm1f(2.0f * ratio) + shift * shift) - ratio;
    }
    return total;
  }

  TRPO_HOST_DEVICE static float entropy(const NetShape& net, const DistRow& row) {
    float total = 0.0f;
    const int actions = columns(net);
    TRPO_ROLLED
    for (int i = 0; i < actions; ++i) total += row.second[i] + kHalfLog2Pi + 0.5f;
    return total;
  }

  TRPO_HOST_DEVICE static void sample(const NetShape& net, const DistRow& row, const float* noise,
                                      float* values, int64_t*) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) values[i] = row.first[i] + expf(row.second[i]) * noise[i];
  }
};

}  // namespace
}  // namespace trpo_fast
