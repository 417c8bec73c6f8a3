// cg: plain conjugate gradient from x = 0 on (F + damping I) x = g, as in trpo_fast/core/reference.py, for
// several right-hand sides that share each pass over the rows.
#include <cmath>
#include <limits>

#include "cpu/operator/operator.h"

namespace trpo_fast::cpu {
namespace {

constexpr int kColumnsAtOnce = 8;
enum Vector : int { kX = 0, kR, kP, kAp };

// One right-hand side's scalars.
struct Column {
  double rr = 0.0, threshold = 0.0;
  bool active = true;
};

// The power of two that brings |g| near one, or zero where g is of ordinary size already.
int exponent_of(const float* g, int64_t n) {
  float top = 0.0f;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, std::fabs(g[i]));
  if (!(top > 0.0f) || !std::isfinite(top)) return 0;
  const int exponent = std::ilogb(top);
  return std::abs(exponent) > 40 ? exponent : 0;
}

void scale_by_power(float* x, int64_t n, int exponent) {
  if (exponent == 0) return;
  for (int64_t i = 0; i < n; ++i) x[i] = std::ldexp(x[i], exponent);
}

}  // namespace

// r holds the right-hand sides on entry; x the solutions on return.
void CpuOperator::conjugate_gradient(Team& team, int columns, const CgParams& cg, Solved* solved) {
  const int64_t size = plan_.size;
  const double tol = std::max<double>(cg.tol, 4.0 * std::numeric_limits<float>::epsilon());
  Column column[kColumnsAtOnce];
  const auto at = [&](Vector which, int c) { return packed_vector(which, c, columns); };
  int exponent[kColumnsAtOnce];
  for (int c = 0; c < columns; ++c) {
    exponent[c] = exponent_of(at(kR, c), size);
    scale_by_power(at(kR, c), size, -exponent[c]);
    std::fill_n(at(kX, c), size, 0.0f);
    std::copy_n(at(kR, c), size, at(kP, c));
    column[c].rr = dot(team, at(kR, c), at(kR, c));
    column[c].threshold = tol * tol * column[c].rr;
    solved[c] = Solved{};
  }
  for (int i = 0; i < cg.iterations; ++i) {
    int list[kColumnsAtOnce], count = 0;
    for (int c = 0; c < columns; ++c) {
      column[c].active = column[c].active && column[c].rr > column[c].threshold;
      if (column[c].active) list[count++] = c;
    }
    if (count == 0) break;
    if (interrupt_()) throw Interrupted{};
    product(team, at(kP, 0), at(kAp, 0), list, count);
    for (int k = 0; k < count; ++k) {
      const int c = list[k];
      const double curvature = dot(team, at(kP, c), at(kAp, c));
      if (i == 0) solved[c].first_curvature = std::ldexp(curvature, 2 * exponent[c]);
      if (!(curvature > 0.0) || !std::isfinite(curvature)) {
        column[c].active = false;
        continue;
      }
      const float alpha = static_cast<float>(column[c].rr / curvature);
      kernels_.axpy(alpha, at(kP, c), at(kX, c), size);
      kernels_.axpy(-alpha, at(kAp, c), at(kR, c), size);
      const double rr = dot(team, at(kR, c), at(kR, c));
      kernels_.xpby(at(kR, c), static_cast<float>(rr / column[c].rr), at(kP, c), size);
      column[c].rr = rr;
      ++solved[c].iterations;
    }
  }
  for (int c = 0; c < columns; ++c) {
    scale_by_power(at(kX, c), size, exponent[c]);
    scale_by_power(at(kR, c), size, exponent[c]);
    solved[c].residual_norm = std::ldexp(std::sqrt(column[c].rr), exponent[c]);
  }
}

void CpuOperator::solve(const float* g, int64_t columns, const CgParams& cg, float* x,
                        Solved* solved, const CallOptions& call) {
  const int64_t most = std::min<int64_t>(columns, kColumnsAtOnce), size = plan_.size;
  Array<float> right(most * size);
  region(call, [&](Team& team) {
    RowSet& rows = fisher_rows();
    lane_sums_.reserve(rows.lanes().count * most * size);
    vectors_.reserve(4 * most * size);
    prepare(team, rows);
    for (int64_t begin = 0; begin < columns; begin += most) {
      const int count = static_cast<int>(std::min(most, columns - begin));
      for (int c = 0; c < count; ++c) {
        pack(plan_, g + (begin + c) * plan_.flat_size, right.data() + c * size);
        std::copy_n(right.data() + c * size, size, packed_vector(kR, c, count));
      }
      conjugate_gradient(team, count, cg, solved + begin);
      for (int c = 0; c < count; ++c) {
        // x'Ax = x'(g - r): no extra product
        const float* solution = packed_vector(kX, c, count);
        solved[begin + c].quad = dot(team, solution, right.data() + c * size) -
                                 dot(team, solution, packed_vector(kR, c, count));
        unpack(plan_, solution, x + (begin + c) * plan_.flat_size);
      }
    }
  });
}

}  // namespace trpo_fast::cpu
