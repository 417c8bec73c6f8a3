// update: gradient, cg, step and line search in one parallel region; theta is written once, at the
// end, if a step was accepted. bad_values: whether bad_values.h has something against a row.
#include <cmath>

#include "cpu/operator/operator.h"
#include "shared/bad_values.h"
#include "shared/factors.h"

namespace trpo_fast::cpu {
namespace {

// Fewer values are looked at sooner than another thread wakes up.
constexpr int64_t kFloatsWorthWaking = 1 << 18;

bool usable_weights(const Rows& rows) {
  return !rows.weights || std::all_of(rows.weights, rows.weights + rows.count,
                                      [](float w) { return usable_weight(w); });
}

// The KL that max_kl limits.
double limited(const SearchParams& search, const Measures& measured) {
  return search.search && search.limit_max ? measured.max_kl : measured.kl;
}

}  // namespace

bool CpuOperator::bad_rows(Team& team) {
  const Rows& rows = batch_.rows();
  if (!usable_weights(rows) || batch_.count() == 0) return true;
  if (fisher_rows().misindexed() || fisher_rows().count() == 0) return true;
  const int width = plan_.net.width[0];
  Array<double> bad = Array<double>::zeros(batch_.lanes().count);
  for_blocks(team, batch_, [&](int64_t lane, int64_t b, Workspace&, bool) {
    const int64_t begin = b * plan_.block_rows;
    const int64_t end = std::min<int64_t>(begin + plan_.block_rows, batch_.count());
    const bool all = batch_.count() == rows.count;  // then the block's observations are one run
    bool usable = !all || kernels_.all_finite(rows.obs + begin * width, (end - begin) * width);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = batch_.row(i);
      usable = usable && (all || kernels_.all_finite(rows.obs + n * width, width)) &&
               usable_row(plan_.net, rows, n);
    }
    if (!usable) bad[lane] = 1.0;
  });
  return std::any_of(bad.data(), bad.data() + bad.size(), [](double b) { return b != 0.0; });
}

bool CpuOperator::bad_values(const CallOptions& call) {
  bool bad = true;
  CallOptions options = call;
  const int64_t floats = batch_.count() * plan_.net.width[0];
  if (floats < kFloatsWorthWaking) options.threads = 1;
  region(options, [&](Team& team) { bad = bad_rows(team); });
  return bad;
}

// x, the natural direction, and what ends the update before a step: g is packed.
Reason CpuOperator::direction(Team& team, const CgParams& cg, const float* g, Solved* solved) {
  const int64_t size = plan_.size;
  if (!kernels_.all_finite(g, size)) return kNonFinite;
  if (dot(team, g, g) == 0.0) return kZeroGradient;
  if (cg.factor_stride > 0) make_factors(team, cg.factor_stride);
  conjugate_gradient(team, 1, cg, g, solved);
  const float* x = packed_vector(0, 0, 1);
  if (!kernels_.all_finite(x, size) || !std::isfinite(solved->first_curvature)) return kNonFinite;
  return solved->first_curvature <= 0.0 ? kNegativeCurvature : kAccepted;
}

// step: the factor on x of the first trial. Lengths, square roots of KLs, add up: the KL of the call,
// which is there if the batch brings the sampler's parameters, is part of what max_kl allows.
Reason CpuOperator::first_trial(const UpdateParams& params, const Measures& before, double quad,
                                double* scale) const {
  const double max_kl = params.search.max_kl;
  *scale = params.learning_rate;
  if (params.learning_rate > 0.0) return kAccepted;
  *scale = std::sqrt(2.0 * max_kl / quad);
  if (!batch_.rows().old_params) return kAccepted;
  const double used = limited(params.search, before);
  if (!std::isfinite(used)) return kNonFinite;
  if (used >= max_kl) return kAtKlLimit;
  *scale = (std::sqrt(max_kl) - std::sqrt(std::max(before.kl, 0.0))) * std::sqrt(2.0 / quad);
  return kAccepted;
}

// line_search: theta + c^j scale x for the first acceptable j; the accepted one is in candidate_.
Reason CpuOperator::line_search(Team& team, const UpdateParams& params, double scale,
                                const Measures& before, Measures* after, int* backtracks) {
  const SearchParams& search = params.search;
  const int64_t size = plan_.size;
  const float* x = packed_vector(0, 0, 1);
  const int steps = search.search ? search.backtrack_steps : 1;
  const double max_kl = search.search ? search.max_kl : HUGE_VAL;
  const double least = search.search ? before.surrogate : -HUGE_VAL;
  for (int j = 0; j < steps; ++j) {
    if (interrupt_()) throw Interrupted{};
    const double factor = scale * std::pow(static_cast<double>(search.backtrack_ratio), j);
    std::copy_n(theta_.data(), size, candidate_.data());
    kernels_.axpy(static_cast<float>(factor), x, candidate_.data(), size);
    *backtracks = j;
    if (!kernels_.all_finite(candidate_.data(), size)) continue;
    *after = evaluate_candidate(team);
    const bool finite = std::isfinite(after->kl) && std::isfinite(after->surrogate);
    if (finite && limited(search, *after) <= max_kl && after->surrogate > least) return kAccepted;
  }
  *backtracks = steps;
  return search.search ? kLineSearchFailed : kNonFinite;
}

void CpuOperator::update(const UpdateParams& params, float* theta, double* stats,
                         const CallOptions& call) {
  const int64_t size = plan_.size;
  Array<float> g(size);
  Measures before, after;
  Solved solved;
  Reason reason = kBadValues;
  double scale = 0.0;
  int backtracks = params.search.search ? params.search.backtrack_steps : 1;
  region(call, [&](Team& team) {
    reserve_surrogate();
    lane_sums_.reserve(fisher_rows().lanes().count * size);
    vectors_.reserve(4 * size);
    candidate_.reserve(size);
    if (bad_rows(team)) return;
    prepare(team, batch_);
    if (fisher_) prepare(team, *fisher_);
    after = before = evaluate_theta(team);
    gradient_packed(team, g.data());
    reason = direction(team, params.cg, g.data(), &solved);
    if (reason != kAccepted) return;
    reason = first_trial(params, before, solved.quad, &scale);
    if (reason != kAccepted) return;
    reason = line_search(team, params, scale, before, &after, &backtracks);
  });
  const bool accepted = reason == kAccepted;
  if (accepted) unpack(plan_, candidate_.data(), theta);
  if (!accepted) after = before;
  const double ratio = std::pow(static_cast<double>(params.search.backtrack_ratio), backtracks);
  stats[kStatReason] = reason;
  stats[kStatKl] = after.kl;
  stats[kStatMaxKl] = after.max_kl;
  stats[kStatSurrogateBefore] = before.surrogate;
  stats[kStatSurrogateAfter] = after.surrogate;
  stats[kStatEntropy] = after.entropy;
  stats[kStatStepSize] = accepted ? scale * ratio : 0.0;
  stats[kStatBacktracks] = backtracks;
  stats[kStatQuad] = solved.quad;
  stats[kStatResidual] = solved.residual_norm;
  stats[kStatIterations] = static_cast<double>(solved.iterations);
  stats[kStatGradientNorm] =
      reason == kBadValues ? NAN : std::sqrt(kernels_.dot(g.data(), g.data(), size));
  stats[kStatLinearGain] = solved.linear_gain;
  const bool preconditioned = params.cg.factor_stride > 0 && factors_;
  stats[kStatFactorRows] =
      preconditioned ? static_cast<double>(picked_count(fisher_count(), params.cg.factor_stride))
                     : 0.0;
  stats[kStatScaledBlocks] = 0.0;
  stats[kStatRestarts] = static_cast<double>(solved.restarts);
}

}  // namespace trpo_fast::cpu
