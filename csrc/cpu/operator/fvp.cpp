// fvp: one pass over the rows, vjp(metric(jvp(v))) block by block for every right-hand side, then the
// lanes' sums in fixed order plus damping * v.
#include <cmath>

#include "cpu/operator/operator.h"

namespace trpo_fast::cpu {
namespace {

constexpr int kColumnsAtOnce = 8;     // right-hand sides that share one pass over the rows
constexpr int64_t kSumPiece = 512;    // floats of a piece when lanes are added up
constexpr int64_t kDotPiece = 16384;  // floats of a piece of a dot product

}  // namespace

// Leaves activations, outputs and metric factors of block b at theta, unless the cache has them.
void CpuOperator::linearize(RowSet& rows, int64_t b, Workspace& work, const Block& block) {
  if (rows.filled) return;
  Block at = block;
  at.outputs = rows.outputs(b, work);
  kernels_.forward(plan_, theta(), at);
  if (plan_.split) kernels_.split_inputs(plan_, at);
  const bool shared = rows.cached() && plan_.net.head == Head::kGaussian;  // one row for all blocks
  if (shared && b > 0) return;
  kernels_.metric_factors(plan_, theta_.data(), rows.mask(b, work), at, rows.factors(b, work));
}

// Fills the cache, once; without one every pass linearizes its blocks as it goes.
void CpuOperator::prepare(Team& team, RowSet& rows) {
  if (chunked() || rows.filled) return;
  rows.allocate_cache();
  for_blocks(team, rows, [&](int64_t, int64_t b, Workspace& work, bool) {
    linearize(rows, b, work, rows.block(b, work));
  });
  rows.filled = true;
}

// Columns of v as what the maps multiply with; the c-th one's operands follow the first's.
Weights CpuOperator::split_v(Team& team, const float* v, const int* columns, int count) {
  if (!plan_.split) return {v, nullptr, nullptr, nullptr};
  v_split_.reserve(count * plan_.split_size);
  team.lanes(count * plan_.split_pieces, [&](int64_t i, int) {
    const int64_t c = i / plan_.split_pieces, piece = i % plan_.split_pieces;
    kernels_.split_v(plan_, v + columns[c] * plan_.size, piece,
                     v_split_.data() + c * plan_.split_size);
  });
  return {v, nullptr, v_split_.data(), nullptr};
}

// out[c] = F v[c] + damping v[c] for the listed columns, all packed.
void CpuOperator::product(Team& team, const float* v, float* out, const int* columns, int count) {
  RowSet& rows = fisher_rows();
  const int64_t lanes = rows.lanes().count, size = plan_.size;
  const Weights every_v = split_v(team, v, columns, count);
  const double total = rows.total_weight();
  for_blocks(team, rows, [&](int64_t lane, int64_t b, Workspace& work, bool first) {
    const Block block = rows.block(b, work);
    linearize(rows, b, work, block);
    const float* factors = rows.factors(b, work);
    const float uniform = static_cast<float>(1.0 / total);
    for (int c = 0; c < count; ++c) {
      const Weights v_c{v + columns[c] * size, nullptr, every_v.split + c * plan_.split_size,
                        nullptr};
      kernels_.jvp(plan_, theta(), v_c, block);
      kernels_.metric(plan_, factors, rows.scale(b), uniform, block);
      kernels_.vjp(plan_, theta(), block, lane_sums_.data() + (lane * count + c) * size, first);
    }
  });
  for (int c = 0; c < count; ++c) {
    const float* v_c = v + columns[c] * size;
    float* to = out + columns[c] * size;
    if (!(total > 0.0)) {  // no row has a weight, or one does not exist: bad_values says so
      std::fill_n(to, size, NAN);
      continue;
    }
    sum_of_lanes(team, lanes, count * size, size, lane_sums_.data() + c * size, to);
    // log_std enters every row alike: its block of F is 2 for any weights.
    for (int i = 0; i < plan_.log_std_count; ++i) {
      to[plan_.log_std + i] = 2.0f * v_c[plan_.log_std + i];
    }
    if (params_.kl_scale != 1.0f) {
      for (int64_t i = 0; i < size; ++i) to[i] *= params_.kl_scale;
    }
    kernels_.axpy(params_.damping, v_c, to, size);
  }
}

void CpuOperator::sum_of_lanes(Team& team, int64_t lanes, int64_t stride, int64_t size,
                               const float* part, float* out) {
  if (lanes == 0) {  // no row has any weight; bad_values says so
    std::fill_n(out, size, 0.0f);
    return;
  }
  team.lanes((size + kSumPiece - 1) / kSumPiece, [&](int64_t piece, int) {
    const int64_t begin = piece * kSumPiece;
    kernels_.sum_lanes(part, lanes, stride, begin, std::min(begin + kSumPiece, size), out);
  });
}

// Pieces of fixed length, added in order: the bits do not depend on who sums which piece.
double CpuOperator::dot(Team& team, const float* a, const float* b) {
  const int64_t size = plan_.size, pieces = (size + kDotPiece - 1) / kDotPiece;
  partial_.reserve(pieces);
  team.lanes(pieces, [&](int64_t piece, int) {
    const int64_t begin = piece * kDotPiece;
    partial_[piece] = kernels_.dot(a + begin, b + begin, std::min(kDotPiece, size - begin));
  });
  double total = 0.0;
  for (int64_t piece = 0; piece < pieces; ++piece) total += partial_[piece];
  return total;
}

void CpuOperator::fvp(const float* v, int64_t columns, float* out, const CallOptions& call) {
  const int64_t most = std::min<int64_t>(columns, kColumnsAtOnce);
  region(call, [&](Team& team) {
    RowSet& rows = fisher_rows();
    lane_sums_.reserve(rows.lanes().count * most * plan_.size);
    vectors_.reserve(4 * most * plan_.size);
    prepare(team, rows);
    int list[kColumnsAtOnce];
    for (int64_t begin = 0; begin < columns; begin += most) {
      const int count = static_cast<int>(std::min(most, columns - begin));
      for (int c = 0; c < count; ++c) {
        list[c] = c;
        pack(plan_, v + (begin + c) * plan_.flat_size, packed_vector(0, c, most));
      }
      product(team, packed_vector(0, 0, most), packed_vector(1, 0, most), list, count);
      for (int c = 0; c < count; ++c) {
        unpack(plan_, packed_vector(1, c, most), out + (begin + c) * plan_.flat_size);
      }
      if (interrupt_()) throw Interrupted{};
    }
  });
}

}  // namespace trpo_fast::cpu
