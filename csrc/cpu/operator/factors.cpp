// factors: K-FAC's pair A, G of every map from some of the rows, their inverses in float64, and
// precondition: z = M^-1 r, a piece of a map at a time. Formulas: trpo_fast/core/preconditioner.py.
#include "cpu/operator/factors.h"

#include <atomic>
#include <cmath>

#include "cpu/operator/measure.h"
#include "cpu/operator/operator.h"
#include "shared/factors.h"

namespace trpo_fast::cpu {
namespace {

constexpr int kPivots = 8;  // negative_inverse takes whole blocks of so many

int round_up(int n, int to) { return (n + to - 1) / to * to; }

InversePlan add_inverse(int n, int vector, FactorPlan* plan) {
  const InversePlan inverse{n, round_up(n, kInverseRows), round_up(n, vector), plan->inverses_size};
  plan->inverses_size += int64_t{inverse.rows} * inverse.ld;
  plan->widest = std::max(plan->widest, inverse.ld);
  return inverse;
}

// The picked rows among those of products, as rows of the batch.
Array<int64_t> picked_rows(const FvpParams& params, int64_t rows, int stride) {
  Array<int64_t> picked(picked_count(rows, stride));
  for (int64_t i = 0; i < picked.size(); ++i) {
    const int64_t n = picked_row(rows, stride, i);
    picked[i] = params.fvp_rows ? params.fvp_rows[n] : n;
  }
  return picked;
}

// The two shifts of a pair's inverses: half of what would give the product the damping of F.
struct Shifts {
  double inputs, outputs;
  Shifts(double mean_a, double mean_g, double damping) {
    const double least = mean_a * mean_g * kDampingFloor;
    const double shift = std::sqrt(kDampingShare * (least <= damping ? damping : least));
    double pi = std::sqrt(mean_a / mean_g);
    if (pi > kBalanceLimit) pi = kBalanceLimit;
    if (pi < 1.0 / kBalanceLimit) pi = 1.0 / kBalanceLimit;
    inputs = pi * shift;
    outputs = shift / pi;
  }
};

// The inverse of a factor plus shift I, zero-padded; false where it is not positive or not finite.
bool invert(const CpuKernels& kernels, const Factor& factor, double shift, double* a,
            const InversePlan& to, float* out) {
  const int n = factor.n, padded = round_up(n, kPivots);
  for (int i = 0; i < padded; ++i) {
    double* row = a + int64_t{i} * padded;
    std::fill_n(row, padded, 0.0);
    for (int j = 0; j <= i && i < n; ++j) row[j] = factor.at(j, i);
    row[i] = i < n ? row[i] + shift : 1.0;
  }
  std::fill_n(out, int64_t{to.rows} * to.ld, 0.0f);
  if (!kernels.negative_inverse(a, padded)) return false;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      const float value = static_cast<float>(-a[int64_t{i} * padded + j]);
      out[int64_t{i} * to.ld + j] = out[int64_t{j} * to.ld + i] = value;
    }
  }
  return kernels.all_finite(out, int64_t{to.rows} * to.ld);
}

}  // namespace

FactorPlan make_factor_plan(const Plan& plan) {
  FactorPlan factors{};
  for (int l = 0; l < plan.net.maps; ++l) {
    const MapPlan& map = plan.map[l];
    PairSums& sums = factors.sums[l];
    sums.inputs = factors.sums_size;
    sums.totals = sums.inputs + int64_t{map.in} * map.in_pad;
    sums.outputs = sums.totals + map.in_pad;
    factors.sums_size = sums.outputs + int64_t{map.out} * map.out_pad;
    factors.inputs[l] = add_inverse(map.in + 1, plan.vector, &factors);
    factors.outputs[l] = add_inverse(map.out, plan.vector, &factors);
    factors.widest = std::max({factors.widest, plan.ld[l + 1], map.in_pad});
    const int rows = map.narrow ? factors.outputs[l].rows : factors.inputs[l].rows;
    factors.pieces[l + 1] = factors.pieces[l] + (rows + kPieceRows - 1) / kPieceRows;
  }
  return factors;
}

double Factor::mean_eigenvalue() const {
  double sum = 0.0;
  for (int i = 0; i < n; ++i) sum += at(i, i);
  return sum / n;
}

Factor Factors::inputs(const Plan& net, int l) const {
  const MapPlan& map = net.map[l];
  return {sums.data() + plan.sums[l].inputs, sums.data() + plan.sums[l].totals, map.in + 1,
          map.in_pad, by};
}

Factor Factors::outputs(const Plan& net, int l) const {
  return {sums.data() + plan.sums[l].outputs, nullptr, net.map[l].out, net.map[l].out_pad, by};
}

int64_t Factors::bytes() const {
  return sums.bytes() + inverses.bytes() + (rows ? rows->bytes() : 0);
}

// S xi of every row of a block into its outputs, times the square root of the row's weight.
void CpuOperator::root_block(const RowSet& rows, int64_t b, Workspace& work, const Block& block) {
  const NetShape& net = plan_.net;
  const int outputs = net.width[net.maps], ld = plan_.ld[net.maps];
  const int64_t stride = net.head == Head::kGaussian ? 0 : plan_.factors_ld;
  const float *scale = rows.scale(b), *factors = rows.factors(b, work);
  Block old = block;
  old.outputs = rows.outputs(b, work);
  for (int m = 0; m < block.rows; ++m) {
    const int64_t n = rows.row(b * plan_.block_rows + m);
    float* signs = block.outputs + int64_t{m} * ld;
    for (int d = 0; d < outputs; ++d) signs[d] = sign_of(n, d);
    head_metric_root(net, dist_row(plan_, rows.rows(), old, m, n, theta_.data()),
                     {factors + m * stride, 1}, scale ? std::sqrt(scale[m]) : 1.0f, {signs, 1});
  }
}

void CpuOperator::sum_factors(Team& team, RowSet& rows) {
  Factors& factors = *factors_;
  const int64_t size = factors.plan.sums_size, lanes = rows.lanes().count;
  lane_sums_.reserve(lanes * size);
  for_blocks(team, rows, [&](int64_t lane, int64_t b, Workspace& work, bool first) {
    const Block block = rows.block(b, work);
    linearize(rows, b, work, block);
    root_block(rows, b, work, block);
    float* const planes[3] = {work.planes[0].data(), work.planes[1].data(), work.planes[2].data()};
    kernels_.factors(plan_, factors.plan, theta(), block, rows.scale(b), planes,
                     lane_sums_.data() + lane * size, first);
  });
  sum_of_lanes(team, lanes, size, size, lane_sums_.data(), factors.sums.data());
  factors.by = rows.scale(0) ? 1.0 : 1.0 / rows.total_weight();
}

void CpuOperator::invert_factors(Team& team) {
  Factors& factors = *factors_;
  std::atomic<bool> usable = true;
  const double damping = params_.damping;
  team.lanes(2 * plan_.net.maps, [&](int64_t task, int worker) {
    const int l = static_cast<int>(task / 2);
    const Factor a = factors.inputs(plan_, l);
    Factor g = factors.outputs(plan_, l);
    g.by *= params_.kl_scale;
    const Shifts shifts(a.mean_eigenvalue(), g.mean_eigenvalue(), damping);
    const bool of_inputs = task % 2 == 0;
    const InversePlan& to = of_inputs ? factors.plan.inputs[l] : factors.plan.outputs[l];
    const bool good = invert(
        kernels_, of_inputs ? a : g, of_inputs ? shifts.inputs : shifts.outputs,
        work_[static_cast<size_t>(worker)]->matrix.data(), to, factors.inverses.data() + to.at);
    if (!good) usable = false;
  });
  factors.usable = usable;
}

// Makes the preconditioner of one of `stride` rows, unless it is there.
void CpuOperator::make_factors(Team& team, int stride) {
  if (!factors_) factors_ = std::make_unique<Factors>(plan_);
  Factors& factors = *factors_;
  for (auto& work : work_) work->reserve_factors(plan_, factors.plan);
  if (factors.stride == stride) return;
  factors.rows = nullptr;
  if (stride > 1) {
    const Array<int64_t> picked = picked_rows(params_, fisher_count(), stride);
    factors.rows = std::make_unique<RowSet>(plan_, params_.rows, picked.data(), picked.size());
  }
  RowSet& rows = factors.rows ? *factors.rows : fisher_rows();
  factors.stride = stride;
  if (rows.total_weight() > 0.0) {
    sum_factors(team, rows);
    invert_factors(team);
  } else {  // no row has a weight, or one does not exist
    std::fill_n(factors.sums.data(), factors.sums.size(), NAN);
    factors.usable = false;
  }
}

// z[c] = M^-1 r[c] for the listed columns, all packed.
void CpuOperator::precondition(Team& team, const float* r, float* z, const int* columns,
                               int count) {
  const Factors& factors = *factors_;
  const FactorPlan& plan = factors.plan;
  const int maps = plan_.net.maps, pieces = plan.pieces[maps];
  const float log_std_scale = 1.0f / (params_.kl_scale * kLogStdCurvature + params_.damping);
  for (int k = 0; k < count; ++k) {
    const int64_t at = columns[k] * plan_.size;
    std::fill_n(z + at, plan_.size, 0.0f);
    for (int i = 0; i < plan_.log_std_count; ++i) {
      z[at + plan_.log_std + i] = log_std_scale * r[at + plan_.log_std + i];
    }
  }
  team.lanes(int64_t{count} * pieces, [&](int64_t task, int worker) {
    const int64_t at = columns[task / pieces] * plan_.size;
    const int piece = static_cast<int>(task % pieces);
    const int l = static_cast<int>(std::upper_bound(plan.pieces + 1, plan.pieces + maps, piece) -
                                   (plan.pieces + 1));
    kernels_.precondition(plan_, plan, l, piece - plan.pieces[l], factors.inverses.data(), r + at,
                          work_[static_cast<size_t>(worker)]->products.data(), z + at);
  });
}

void CpuOperator::factors(int stride, float* out, const CallOptions& call) {
  region(call, [&](Team& team) {
    if (stride == 1) prepare(team, fisher_rows());
    make_factors(team, stride);
  });
  const auto write = [&](const Factor& factor) {
    for (int i = 0; i < factor.n; ++i) {
      for (int j = 0; j < factor.n; ++j) {
        *out++ = static_cast<float>(factor.at(std::min(i, j), std::max(i, j)));
      }
    }
  };
  for (int l = 0; l < plan_.net.maps; ++l) {
    write(factors_->inputs(plan_, l));
    write(factors_->outputs(plan_, l));
  }
}

void CpuOperator::precondition(int stride, const float* r, float* z, const CallOptions& call) {
  Array<float> from(plan_.size), to(plan_.size);
  pack(plan_, r, from.data());
  region(call, [&](Team& team) {
    if (stride == 1) prepare(team, fisher_rows());
    make_factors(team, stride);
    const int column = 0;
    precondition(team, from.data(), to.data(), &column, 1);
  });
  unpack(plan_, to.data(), z);
}

}  // namespace trpo_fast::cpu
