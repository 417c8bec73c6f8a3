// Construction, and the stages one by one for the whole batch.
#include "cpu/operator/operator.h"

#include "shared/heads.h"

namespace trpo_fast::cpu {
namespace {

// Copies [rows of a block] between the core's outputs [rows, ld] and D columns of the batch.
struct Columns {
  int outputs, params, ld;
};

Columns columns_of(const Plan& plan) {
  return {plan.net.width[plan.net.maps], dist_params(plan.net), plan.ld[plan.net.maps]};
}

Plan plan_for(const FvpParams& params, const CpuKernels& kernels) {
  Plan plan = make_plan(params.net, kernels);
  plan.block_rows =
      balanced_block_rows(plan, params.fvp_rows ? params.fvp_count : params.rows.count);
  return plan;
}

}  // namespace

CpuOperator::CpuOperator(const FvpParams& params, bool reverse_kl, const CpuKernels& kernels)
    : kernels_(kernels),
      plan_(plan_for(params, kernels)),
      params_(params),
      reverse_kl_(reverse_kl),
      theta_(plan_.size),
      back_(plan_.back_size),
      batch_(plan_, params.rows, nullptr, 0) {
  pack(plan_, params.theta, theta_.data());
  pack_back(plan_, params.theta, back_.data());
  if (plan_.split) {
    theta_split_ = Array<uint16_t>(plan_.split_size);
    back_split_ = Array<uint16_t>(plan_.back_split_size);
    for (int64_t piece = 0; piece < plan_.split_pieces; ++piece) {
      kernels_.split_weights(plan_, theta_.data(), piece, theta_split_.data());
    }
    kernels_.split_back(plan_, back_.data(), back_split_.data());
  }
  if (params.fvp_rows) {
    fisher_ = std::make_unique<RowSet>(plan_, params.rows, params.fvp_rows, params.fvp_count);
  }
}

int64_t CpuOperator::scratch_bytes() const {
  int64_t total = theta_.bytes() + back_.bytes() + batch_.bytes() + lane_sums_.bytes() +
                  vectors_.bytes() + candidate_.bytes() + log_ratio_.bytes() + slope_.bytes() +
                  log_old_.bytes() + partial_.bytes() + theta_split_.bytes() + back_split_.bytes() +
                  v_split_.bytes() + candidate_split_.bytes();
  if (fisher_) total += fisher_->bytes();
  if (factors_) total += factors_->bytes();
  for (const auto& work : work_) total += work->bytes();
  return total;
}

void CpuOperator::forward(float* params, const CallOptions& call) {
  const Columns d = columns_of(plan_);
  region(call, [&](Team& team) {
    for_blocks(team, batch_, [&](int64_t, int64_t b, Workspace& work, bool) {
      const Block block = batch_.block(b, work, true);
      kernels_.forward(plan_, theta(), block);
      for (int m = 0; m < block.rows; ++m) {
        float* to = params + batch_.row(b * plan_.block_rows + m) * d.params;
        std::copy_n(block.outputs + m * d.ld, d.outputs, to);
        std::copy_n(theta_.data() + plan_.log_std, d.params - d.outputs, to + d.outputs);
      }
    });
  });
}

void CpuOperator::jvp(const float* v, float* tangent, const CallOptions& call) {
  const Columns d = columns_of(plan_);
  Array<float> packed(plan_.size);
  pack(plan_, v, packed.data());
  region(call, [&](Team& team) {
    prepare(team, batch_);
    const int column = 0;
    const Weights packed_v = split_v(team, packed.data(), &column, 1);
    for_blocks(team, batch_, [&](int64_t, int64_t b, Workspace& work, bool) {
      const Block block = batch_.block(b, work);
      linearize(batch_, b, work, block);
      kernels_.jvp(plan_, theta(), packed_v, block);
      for (int m = 0; m < block.rows; ++m) {
        float* to = tangent + batch_.row(b * plan_.block_rows + m) * d.params;
        std::copy_n(block.outputs + m * d.ld, d.outputs, to);
        std::copy_n(packed.data() + plan_.log_std, d.params - d.outputs, to + d.outputs);
      }
    });
  });
}

void CpuOperator::metric(const float* tangent, float* out, const CallOptions& call) {
  const Columns d = columns_of(plan_);
  region(call, [&](Team& team) {
    prepare(team, batch_);
    for_blocks(team, batch_, [&](int64_t, int64_t b, Workspace& work, bool) {
      const Block block = batch_.block(b, work);
      linearize(batch_, b, work, block);
      for (int m = 0; m < block.rows; ++m) {
        const float* from = tangent + batch_.row(b * plan_.block_rows + m) * d.params;
        std::copy_n(from, d.outputs, block.outputs + m * d.ld);
      }
      kernels_.metric(plan_, batch_.factors(b, work), nullptr, 1.0f, block);
      for (int m = 0; m < block.rows; ++m) {
        const int64_t at = batch_.row(b * plan_.block_rows + m) * d.params;
        std::copy_n(block.outputs + m * d.ld, d.outputs, out + at);
        for (int i = d.outputs; i < d.params; ++i) out[at + i] = 2.0f * tangent[at + i];
      }
    });
  });
}

void CpuOperator::vjp(const float* delta, float* out, const CallOptions& call) {
  const Columns d = columns_of(plan_);
  const int64_t lanes = batch_.lanes().count;
  lane_sums_.reserve(lanes * plan_.size);
  Array<float> sum(plan_.size);
  region(call, [&](Team& team) {
    prepare(team, batch_);
    for_blocks(team, batch_, [&](int64_t lane, int64_t b, Workspace& work, bool first) {
      const Block block = batch_.block(b, work);
      linearize(batch_, b, work, block);
      float* to = lane_sums_.data() + lane * plan_.size;
      std::fill_n(block.outputs, block.padded_rows * d.ld, 0.0f);
      for (int m = 0; m < block.rows; ++m) {
        const float* from = delta + batch_.row(b * plan_.block_rows + m) * d.params;
        std::copy_n(from, d.outputs, block.outputs + m * d.ld);
      }
      kernels_.vjp(plan_, theta(), block, to, first);
      for (int m = 0; m < block.rows; ++m) {
        const float* from = delta + batch_.row(b * plan_.block_rows + m) * d.params;
        for (int i = d.outputs; i < d.params; ++i) to[plan_.log_std + i - d.outputs] += from[i];
      }
    });
    sum_of_lanes(team, lanes, plan_.size, plan_.size, lane_sums_.data(), sum.data());
  });
  unpack(plan_, sum.data(), out);
}

}  // namespace trpo_fast::cpu
