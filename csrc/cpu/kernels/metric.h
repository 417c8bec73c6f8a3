// metric: outputs <- scale_n M outputs on one block of rows, in two halves: the factors that depend on
// theta alone, once per theta, and the product, once per v. Formulas: heads.h.
#pragma once
#include "cpu/kernels/plan.h"
#include "cpu/kernels/simd.h"
#include "shared/heads.h"

namespace trpo_fast::cpu {
namespace {

void block_metric_factors(const Plan& plan, const float* theta, const uint8_t* mask,
                          const Block& block, float* factors) {
  const NetShape& net = plan.net;
  const int outputs = net.width[net.maps], ld = plan.ld[net.maps], wide = plan.factors_ld;
  const bool one_row = net.head == Head::kGaussian;
  for (int m = 0; m < (one_row ? 1 : block.rows); ++m) {
    const float* z = block.outputs + int64_t{m} * ld;
    const float* second = one_row ? theta + plan.log_std : z + outputs / 2;
    const DistRow row{{z, 1}, {second, 1}, mask ? mask + int64_t{m} * outputs : nullptr};
    for (int i = 0; i < wide; ++i) factors[m * wide + i] = 0.0f;
    head_metric_factors(net, row, {factors + int64_t{m} * wide, 1});
  }
}

// A diagonal metric, whole vectors at a time.
void diagonal_metric(const Plan& plan, const float* factors, const float* scale, float uniform,
                     const Block& block) {
  const int ld = plan.ld[plan.net.maps];
  const int64_t stride = plan.net.head == Head::kGaussian ? 0 : plan.factors_ld;
  for (int m = 0; m < block.rows; ++m) {
    const float s = scale ? scale[m] : uniform;
    for (int i = 0; i < ld; i += kVector) {
      float* at = block.outputs + int64_t{m} * ld + i;
      store(at, s * load(factors + m * stride + i) * load(at));
    }
  }
}

void block_metric(const Plan& plan, const float* factors, const float* scale, float uniform,
                  const Block& block) {
  const NetShape& net = plan.net;
  const int64_t ld = plan.ld[net.maps];
  if (metric_is_diagonal(net)) {
    diagonal_metric(plan, factors, scale, uniform, block);
  } else {
    for (int m = 0; m < block.rows; ++m) {
      head_metric_apply(net, {factors + int64_t{m} * plan.factors_ld, 1},
                        scale ? scale[m] : uniform, {block.outputs + m * ld, 1});
    }
  }
  for (int64_t i = block.rows * ld; i < block.padded_rows * ld; ++i) block.outputs[i] = 0.0f;
}

}  // namespace
}  // namespace trpo_fast::cpu
