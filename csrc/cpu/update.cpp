// update: gradient, cg, step and line search in one parallel region; theta is written once, at the
// end, if a step was accepted. bad_values: what no update can use.
#include <cmath>

#include "cpu/measure.h"
#include "cpu/operator.h"

namespace trpo_fast {
namespace {

// Fewer values are looked at sooner than another thread wakes up.
constexpr int64_t kFloatsWorthWaking = 1 << 18;

bool finite_row(const CpuKernels& kernels, const float* x, int64_t n, int64_t columns) {
  return !x || kernels.all_finite(x + n * columns, columns);
}

// Choices within range, on allowed logits only, and at least one allowed logit a factor.
bool good_choices(const NetShape& net, const Rows& rows, int64_t n) {
  const uint8_t* mask = rows.mask ? rows.mask + n * net.width[net.maps] : nullptr;
  for (int f = 0, begin = 0; f < net.factors; begin += net.nvec[f], ++f) {
    if (mask && std::count(mask + begin, mask + begin + net.nvec[f], 0) == net.nvec[f])
      return false;
    if (!rows.choices) continue;
    const int64_t choice = rows.choices[n * net.factors + f];
    if (choice < 0 || choice >= net.nvec[f] || (mask && !mask[begin + choice])) return false;
  }
  return true;
}

bool good_yes_no(const NetShape& net, const Rows& rows, int64_t n) {
  if (net.head != Head::kBernoulli || !rows.actions) return true;
  const float* action = rows.actions + n * net.width[net.maps];
  return std::all_of(action, action + net.width[net.maps],
                     [](float a) { return a == 0.0f || a == 1.0f; });
}

bool good_weights(const Rows& rows) {
  if (!rows.weights) return true;
  return std::all_of(rows.weights, rows.weights + rows.count,
                     [](float w) { return w >= 0.0f && std::isfinite(w); });
}

}  // namespace

bool CpuOperator::bad_rows(Team& team) {
  const Rows& rows = batch_.rows();
  if (!good_weights(rows) || batch_.count() == 0) return true;
  if (fisher_rows().misindexed() || fisher_rows().count() == 0) return true;
  const NetShape& net = plan_.net;
  const int width = net.width[0];
  Array<double> bad = Array<double>::zeros(batch_.lanes().count);
  for_blocks(team, batch_, [&](int64_t lane, int64_t b, Workspace&, bool) {
    const int64_t begin = b * plan_.block_rows;
    const int64_t end = std::min<int64_t>(begin + plan_.block_rows, batch_.count());
    const bool all = batch_.count() == rows.count;  // then the block's observations are one run
    if (all && !kernels_.all_finite(rows.obs + begin * width, (end - begin) * width)) {
      bad[lane] = 1.0;
    }
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = batch_.row(i);
      const bool good =
          (all || finite_row(kernels_, rows.obs, n, width)) &&
          finite_row(kernels_, rows.actions, n, rows.actions ? action_columns(net) : 0) &&
          finite_row(kernels_, rows.advantages, n, 1) &&
          finite_row(kernels_, rows.log_probs, n, 1) && good_choices(net, rows, n) &&
          good_yes_no(net, rows, n);
      if (!good) bad[lane] = 1.0;
    }
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

// x, the natural direction, and what ends the update before a step: packed g is read from kR.
Reason CpuOperator::direction(Team& team, const CgParams& cg, const float* g, Solved* solved) {
  const int64_t size = plan_.size;
  if (!kernels_.all_finite(g, size)) return kNonFinite;
  if (dot(team, g, g) == 0.0) return kZeroGradient;
  std::copy_n(g, size, packed_vector(1, 0, 1));
  conjugate_gradient(team, 1, cg, solved);
  const float* x = packed_vector(0, 0, 1);
  solved->quad = dot(team, x, g) - dot(team, x, packed_vector(1, 0, 1));
  if (!kernels_.all_finite(x, size) || !std::isfinite(solved->first_curvature)) return kNonFinite;
  return solved->first_curvature <= 0.0 ? kNegativeCurvature : kAccepted;
}

// line_search: theta + c^j scale x for the first acceptable j; the accepted one is in candidate_.
Reason CpuOperator::line_search(Team& team, const UpdateParams& params, double scale,
                                const Evaluated& before, Evaluated* after, int* backtracks) {
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
    if (finite && after->kl <= max_kl && after->surrogate > least) return kAccepted;
  }
  *backtracks = steps;
  return search.search ? kLineSearchFailed : kNonFinite;
}

void CpuOperator::update(const UpdateParams& params, float* theta, double* stats,
                         const CallOptions& call) {
  const int64_t size = plan_.size;
  Array<float> g(size);
  Evaluated before, after;
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
    scale = params.learning_rate > 0.0 ? params.learning_rate
                                       : std::sqrt(2.0 * params.search.max_kl / solved.quad);
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
}

}  // namespace trpo_fast
