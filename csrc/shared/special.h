// log Gamma and its first two derivatives for x >= 1, in float64: a few steps of the recurrence up to
// x >= 8, then Stirling's series. The first omitted terms are below 1e-12.
#pragma once
#include "shared/head_row.h"

namespace trpo_fast {
namespace {

TRPO_HOST_DEVICE double log_gamma(double x) {
  double product = 1.0;
  for (; x < 8.0; x += 1.0) product *= x;
  const double r = 1.0 / x, s = r * r;
  const double series =
      r * (1.0 / 12 - s * (1.0 / 360 - s * (1.0 / 1260 - s * (1.0 / 1680 - s * (1.0 / 1188)))));
  return (x - 0.5) * log(x) - x + 0.918938533204672742 + series - log(product);
}

TRPO_HOST_DEVICE double digamma(double x) {
  double below = 0.0;
  for (; x < 8.0; x += 1.0) below += 1.0 / x;
  const double r = 1.0 / x, s = r * r;
  const double series =
      s * (1.0 / 12 - s * (1.0 / 120 - s * (1.0 / 252 - s * (1.0 / 240 - s * (1.0 / 132)))));
  return log(x) - 0.5 * r - series - below;
}

TRPO_HOST_DEVICE double trigamma(double x) {
  double below = 0.0;
  for (; x < 8.0; x += 1.0) below += 1.0 / (x * x);
  const double r = 1.0 / x, s = r * r;
  const double series = 1.0 / 6 - s * (1.0 / 30 - s * (1.0 / 42 - s * (1.0 / 30 - s * (5.0 / 66))));
  return r + 0.5 * s + r * s * series + below;
}

}  // namespace
}  // namespace trpo_fast
