// Views of one row as heads.h wants them, for the passes over rows that are not hot.
#pragma once
#include "cpu/kernels/plan.h"
#include "shared/heads.h"

namespace trpo_fast::cpu {
namespace {

enum Measure : int { kSumKl = 0, kTopKl, kSumEntropy, kMeasures };

inline bool has_actions(const Rows& rows) { return rows.actions || rows.choices; }

// Whether the ratios are to theta's own probabilities, which a pass at theta must leave behind.
inline bool ratios_to_theta(const Rows& rows) { return !rows.log_probs && !rows.old_params; }

// Row m of a block, row n of the batch.
inline DistRow dist_row(const Plan& plan, const Rows& rows, const Block& block, int m, int64_t n,
                        const float* packed) {
  const NetShape& net = plan.net;
  const float* z = block.outputs + int64_t{m} * plan.ld[net.maps];
  const int outputs = net.width[net.maps];
  const float* second = net.head == Head::kGaussian ? packed + plan.log_std : z + outputs / 2;
  return {{z, 1}, {second, 1}, rows.mask ? rows.mask + n * outputs : nullptr};
}

inline Action action_of(const NetShape& net, const Rows& rows, int64_t n) {
  const int64_t at = n * action_columns(net);
  return {rows.actions ? rows.actions + at : nullptr, rows.choices ? rows.choices + at : nullptr};
}

}  // namespace
}  // namespace trpo_fast::cpu
