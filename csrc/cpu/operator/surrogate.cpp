// gradient and evaluate: the surrogate, the KL and the entropy over all rows of the batch. Row
// formulas are heads.h; what is summed over rows is summed in float64, lane by lane, in order.
#include <cmath>

#include "cpu/operator/measure.h"
#include "cpu/operator/operator.h"
#include "shared/heads.h"

namespace trpo_fast::cpu {

// log pi_old of row i of the set, row n of the batch.
float CpuOperator::log_prob_before(int64_t i, int64_t n) const {
  const Rows& batch = batch_.rows();
  if (batch.log_probs) return batch.log_probs[n];
  if (!batch.old_params) return log_old_[i];
  return head_log_prob(plan_.net, sampler_row(plan_.net, batch, n), action_of(plan_.net, batch, n));
}

// log(pi / pi_old) of every row and, at theta itself, log pi_old where the batch does not bring it.
void CpuOperator::log_ratios(const RowSet& rows, int64_t b, const Block& block,
                             const float* packed) {
  const Rows& batch = rows.rows();
  const bool at_theta = packed == theta_.data();
  for (int m = 0; m < block.rows; ++m) {
    const int64_t i = b * plan_.block_rows + m, n = rows.row(i);
    const float log_prob = head_log_prob(plan_.net, dist_row(plan_, batch, block, m, n, packed),
                                         action_of(plan_.net, batch, n));
    if (ratios_to_theta(batch) && at_theta) log_old_[i] = log_prob;
    log_ratio_[i] = log_prob - log_prob_before(i, n);
  }
}

// S = sum_n w_n rho_n A_n / W; leaves dS / d log pi(a_n) in slope_.
double CpuOperator::surrogate() {
  if (!batch_.rows().advantages || !has_actions(batch_.rows())) return 0.0;
  if (batch_.rows().group_size > 0) return grouped_surrogate();
  const double total = batch_.total_weight();
  double sum = 0.0;
  for (int64_t i = 0; i < batch_.count(); ++i) {
    const double weight = batch_.weight(i) / total;
    const float ratio = std::exp(log_ratio_[i]);
    const double term = weight * ratio * batch_.rows().advantages[batch_.row(i)];
    slope_[i] = static_cast<float>(term);
    sum += term;
  }
  return sum;
}

// S = sum_g W_g S_g / W, S_g = sum_k w_k rho_k A_k / sum_k w_k rho_k over group_size rows.
double CpuOperator::grouped_surrogate() {
  const Rows& batch = batch_.rows();
  const auto group_of = [&](int64_t i) { return batch_.row(i) / batch.group_size; };
  const auto mass = [&](int64_t i) {
    return batch_.weight(i) * static_cast<double>(std::exp(log_ratio_[i]));
  };
  double sum = 0.0;
  for (int64_t begin = 0, end; begin < batch_.count(); begin = end) {
    double weight = 0.0, denominator = 0.0, numerator = 0.0;
    for (end = begin; end < batch_.count() && group_of(end) == group_of(begin); ++end) {
      weight += batch_.weight(end);
      denominator += mass(end);
      numerator += mass(end) * batch.advantages[batch_.row(end)];
    }
    const double mean = denominator > 0.0 ? numerator / denominator : 0.0 * denominator;
    const double share = denominator > 0.0 ? weight / batch_.total_weight() / denominator : 0.0;
    sum += weight / batch_.total_weight() * mean;
    for (int64_t i = begin; i < end; ++i) {
      slope_[i] = static_cast<float>(share * mass(i) * (batch.advantages[batch_.row(i)] - mean));
    }
  }
  return sum;
}

void CpuOperator::reserve_surrogate() {
  const int64_t count = batch_.count();
  log_ratio_.reserve(count);
  slope_.reserve(count);
  if (ratios_to_theta(batch_.rows())) log_old_.reserve(count);
  partial_.reserve(kMeasures * batch_.lanes().count);
  lane_sums_.reserve(batch_.lanes().count * plan_.size);
}

// Adds KL, largest KL and entropy of block b to sums [kMeasures].
void CpuOperator::measure_block(int64_t b, const Block& now, const Block& old, const float* packed,
                                double* sums) const {
  const Rows& batch = batch_.rows();
  const double total = batch_.total_weight();
  for (int m = 0; m < now.rows; ++m) {
    const int64_t i = b * plan_.block_rows + m, n = batch_.row(i);
    const DistRow at = dist_row(plan_, batch, now, m, n, packed);
    const double weight = batch_.weight(i) / total;
    sums[kSumEntropy] += weight * head_entropy(plan_.net, at);
    if (packed == theta_.data() && !batch.old_params) continue;
    const DistRow before = batch.old_params ? sampler_row(plan_.net, batch, n)
                                            : dist_row(plan_, batch, old, m, n, theta_.data());
    const float kl = params_.kl_scale * (reverse_kl_ ? head_kl(plan_.net, at, before)
                                                     : head_kl(plan_.net, before, at));
    sums[kSumKl] += weight * kl;
    if (!(kl <= sums[kTopKl])) sums[kTopKl] = kl;  // NaN stays
  }
}

Measures CpuOperator::total_of_measures() const {
  Measures result;
  for (int64_t lane = 0; lane < batch_.lanes().count; ++lane) {
    const double* sums = partial_.data() + lane * kMeasures;
    result.kl += sums[kSumKl];
    result.entropy += sums[kSumEntropy];
    if (!(sums[kTopKl] <= result.max_kl)) result.max_kl = sums[kTopKl];
  }
  return result;
}

Measures CpuOperator::evaluate_candidate(Team& team) {
  if (plan_.split) {
    candidate_split_.reserve(plan_.split_size);
    team.lanes(plan_.split_pieces, [&](int64_t piece, int) {
      kernels_.split_weights(plan_, candidate_.data(), piece, candidate_split_.data());
    });
  }
  return evaluate_weights(team, {candidate_.data(), nullptr, candidate_split_.data(), nullptr});
}

// One forward of `weights` over all rows, measured against the policy that sampled them or theta.
Measures CpuOperator::evaluate_weights(Team& team, const Weights& weights) {
  const float* packed = weights.packed;
  const bool at_theta = packed == theta_.data(), actions = has_actions(batch_.rows());
  for_blocks(team, batch_, [&](int64_t lane, int64_t b, Workspace& work, bool first) {
    double* sums = partial_.data() + lane * kMeasures;
    if (first) std::fill_n(sums, kMeasures, 0.0);
    Block old = batch_.block(b, work);
    linearize(batch_, b, work, old);
    old.outputs = batch_.outputs(b, work);
    Block now = old;
    if (!at_theta) {
      now = batch_.block(b, work, true);
      kernels_.forward(plan_, weights, now);
    }
    measure_block(b, now, old, packed, sums);
    if (actions) log_ratios(batch_, b, now, packed);
  });
  has_old_ = has_old_ || at_theta;
  Measures result = total_of_measures();
  result.surrogate = surrogate();
  return result;
}

// Row by row slope_n times the score into block.outputs; log_std's part summed into work.second.
void CpuOperator::score_block(int64_t b, const Block& block, Workspace& work) {
  const NetShape& net = plan_.net;
  const int ld = plan_.ld[net.maps], count = plan_.log_std_count;
  Block old = block;
  old.outputs = batch_.outputs(b, work);
  float *of_row = work.second.data(), *sum = of_row + count;
  std::fill_n(sum, count, 0.0f);
  for (int m = 0; m < block.rows; ++m) {
    const int64_t i = b * plan_.block_rows + m, n = batch_.row(i);
    float* score = block.outputs + m * ld;
    float* second = net.head == Head::kGaussian ? of_row : score + net.width[net.maps] / 2;
    head_score(net, dist_row(plan_, batch_.rows(), old, m, n, theta_.data()),
               action_of(net, batch_.rows(), n), slope_[i], {{score, 1}, {second, 1}});
    for (int a = 0; a < count; ++a) sum[a] += of_row[a];
  }
  std::fill_n(block.outputs + block.rows * ld, (block.padded_rows - block.rows) * ld, 0.0f);
}

// g = sum_n slope_n J' score_n, packed; slope_ holds dS / d log pi at theta.
void CpuOperator::gradient_packed(Team& team, float* g) {
  for_blocks(team, batch_, [&](int64_t lane, int64_t b, Workspace& work, bool first) {
    const Block block = batch_.block(b, work);
    linearize(batch_, b, work, block);
    score_block(b, block, work);
    float* to = lane_sums_.data() + lane * plan_.size;
    kernels_.vjp(plan_, theta(), block, to, first);
    const float* sum = work.second.data() + plan_.log_std_count;
    for (int a = 0; a < plan_.log_std_count; ++a) to[plan_.log_std + a] += sum[a];
  });
  sum_of_lanes(team, batch_.lanes().count, plan_.size, plan_.size, lane_sums_.data(), g);
}

Measures CpuOperator::gradient(float* g, const CallOptions& call) {
  Measures at;
  Array<float> packed(plan_.size);
  region(call, [&](Team& team) {
    reserve_surrogate();
    prepare(team, batch_);
    at = evaluate_theta(team);
    gradient_packed(team, packed.data());
  });
  unpack(plan_, packed.data(), g);
  return at;
}

Measures CpuOperator::evaluate(const float* theta, const CallOptions& call) {
  Measures at;
  region(call, [&](Team& team) {
    reserve_surrogate();
    prepare(team, batch_);
    if (ratios_to_theta(batch_.rows()) && !has_old_) evaluate_theta(team);
    candidate_.reserve(plan_.size);
    pack(plan_, theta, candidate_.data());
    at = evaluate_candidate(team);
  });
  return at;
}

}  // namespace trpo_fast::cpu
