// kBeta, independent Beta distributions of numbers in (0, 1): trpo_fast/policy/heads/beta.py.
// alpha = 1 + softplus(first), beta = 1 + softplus(second). KL and metric are differences of nearly equal
// numbers, hence float64 inside.
#pragma once
#include "shared/special.h"

namespace trpo_fast {
namespace {

// One action's distribution.
struct BetaRow {
  double above[2];  // alpha - 1, beta - 1
  double slope[2];  // of both in first and second

  TRPO_HOST_DEVICE BetaRow(const DistRow& row, int i) {
    const double z[2] = {row.first[i], row.second[i]};
    for (int k = 0; k < 2; ++k) {
      above[k] = fmax(z[k], 0.0) + log1p(exp(-fabs(z[k])));
      slope[k] = 1.0 / (1.0 + exp(-z[k]));
    }
  }
  TRPO_HOST_DEVICE double concentration(int k) const { return 1.0 + above[k]; }
  TRPO_HOST_DEVICE double sum() const { return 2.0 + above[0] + above[1]; }
  TRPO_HOST_DEVICE double log_normaliser() const {
    return log_gamma(concentration(0)) + log_gamma(concentration(1)) - log_gamma(sum());
  }
};

// The symmetric 2 x 2 metric of one action: derivatives of log B, twice, chained with the slopes.
struct BetaMetric {
  double first, mixed, second;

  TRPO_HOST_DEVICE explicit BetaMetric(const BetaRow& at) {
    const double both = trigamma(at.sum());
    first = (trigamma(at.concentration(0)) - both) * at.slope[0] * at.slope[0];
    second = (trigamma(at.concentration(1)) - both) * at.slope[1] * at.slope[1];
    mixed = -both * at.slope[0] * at.slope[1];
  }
};

struct BetaHead {
  static constexpr Noise kNoise = Noise::kNone;
  static constexpr bool kDiagonal = false;

  // A
  TRPO_HOST_DEVICE static int columns(const NetShape& net) { return net.width[net.maps] / 2; }

  // Floats of a row of metric_factors: first, mixed and second [A] one after the other.
  TRPO_HOST_DEVICE static int metric_width(const NetShape& net) { return 3 * columns(net); }

  TRPO_HOST_DEVICE static bool takes(float action) { return action > 0.0f && action < 1.0f; }

  TRPO_HOST_DEVICE static void metric(const NetShape& net, const DistRow& row,
                                      const DistVector& tangent, const DistVector& out) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      const BetaMetric m(BetaRow(row, i));
      const double a = tangent.first[i], b = tangent.second[i];
      out.first[i] = static_cast<float>(m.first * a + m.mixed * b);
      out.second[i] = static_cast<float>(m.mixed * a + m.second * b);
    }
  }

  TRPO_HOST_DEVICE static void metric_factors(const NetShape& net, const DistRow& row,
                                              Strided<float> factors) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      const BetaMetric m(BetaRow(row, i));
      factors[i] = static_cast<float>(m.first);
      factors[actions + i] = static_cast<float>(m.mixed);
      factors[2 * actions + i] = static_cast<float>(m.second);
    }
  }

  TRPO_HOST_DEVICE static void metric_apply(const NetShape& net, Strided<const float> factors,
                                            float scale, Strided<float> tangent) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      const float a = scale * tangent[i], b = scale * tangent[actions + i];
      const float mixed = factors[actions + i];
      tangent[i] = factors[i] * a + mixed * b;
      tangent[actions + i] = mixed * a + factors[2 * actions + i] * b;
    }
  }

  // The Cholesky factor, whose last element is a difference of nearly equal numbers: from z in float64.
  TRPO_HOST_DEVICE static void metric_root(const NetShape& net, const DistRow& row,
                                           Strided<const float>, float scale,
                                           Strided<float> signs) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      const BetaMetric m(BetaRow(row, i));
      const double first = sqrt(m.first), across = m.mixed / first;
      const double second = sqrt(m.second - across * across);
      const double a = scale * signs[i], b = scale * signs[actions + i];
      signs[i] = static_cast<float>(first * a);
      signs[actions + i] = static_cast<float>(across * a + second * b);
    }
  }

  TRPO_HOST_DEVICE static float log_prob(const NetShape& net, const DistRow& row,
                                         const Action& action) {
    double total = 0.0;
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      const BetaRow at(row, i);
      const double a = action.values[i];
      total += at.above[0] * log(a) + at.above[1] * log1p(-a) - at.log_normaliser();
    }
    return static_cast<float>(total);
  }

  TRPO_HOST_DEVICE static void score(const NetShape& net, const DistRow& row, const Action& action,
                                     float scale, const DistVector& out) {
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      const BetaRow at(row, i);
      const double a = action.values[i], both = digamma(at.sum());
      const double first = log(a) - digamma(at.concentration(0)) + both;
      const double second = log1p(-a) - digamma(at.concentration(1)) + both;
      out.first[i] = static_cast<float>(scale * first * at.slope[0]);
      out.second[i] = static_cast<float>(scale * second * at.slope[1]);
    }
  }

  TRPO_HOST_DEVICE static float kl(const NetShape& net, const DistRow& p, const DistRow& q) {
    double total = 0.0;
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      const BetaRow of_p(p, i), of_q(q, i);
      const double both = digamma(of_p.sum());
      total += of_q.log_normaliser() - of_p.log_normaliser();
      for (int k = 0; k < 2; ++k) {
        total += (of_p.above[k] - of_q.above[k]) * (digamma(of_p.concentration(k)) - both);
      }
    }
    return static_cast<float>(total);
  }

  TRPO_HOST_DEVICE static float entropy(const NetShape& net, const DistRow& row) {
    double total = 0.0;
    const int actions = columns(net);
    for (int i = 0; i < actions; ++i) {
      const BetaRow at(row, i);
      const double both = digamma(at.sum());
      total += at.log_normaliser();
      for (int k = 0; k < 2; ++k) {
        total -= at.above[k] * (digamma(at.concentration(k)) - both);
      }
    }
    return static_cast<float>(total);
  }
};

}  // namespace
}  // namespace trpo_fast
