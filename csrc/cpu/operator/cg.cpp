// cg: conjugate gradient from x = 0 on (F + damping I) x = g, plain or preconditioned, as in
// trpo_fast/core/cg.py, for several right-hand sides that share each pass over the rows.
#include "cpu/operator/cg.h"

#include <cmath>
#include <limits>

#include "cpu/operator/operator.h"

namespace trpo_fast::cpu {
namespace {

constexpr int kColumnsAtOnce = 8;
enum Vector : int { kX = 0, kR, kP, kAp, kZ = kAp };  // z follows when A p was used

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

bool positive(double value) { return value > 0.0 && std::isfinite(value); }

}  // namespace

// x = 0 and p = r = g, scaled: plain, until someone puts z in the place of p.
void CpuOperator::begin_column(Team& team, const float* g, int c, int columns, CgColumn* column) {
  const int64_t size = plan_.size;
  float *r = packed_vector(kR, c, columns), *p = packed_vector(kP, c, columns);
  std::copy_n(g + c * size, size, r);
  scale_by_power(r, size, -column->exponent);
  std::fill_n(packed_vector(kX, c, columns), size, 0.0f);
  std::copy_n(r, size, p);
  column->rr = column->rz = dot(team, r, r);
  column->gain = 0.0;
  column->plain = true;
}

// z and the first p of every column, if M is a preconditioner: else they stay plain.
void CpuOperator::begin_preconditioned(Team& team, int columns, CgColumn* column, Solved* solved) {
  int every[kColumnsAtOnce] = {};
  for (int c = 0; c < columns; ++c) every[c] = c;
  const float* r = packed_vector(kR, 0, columns);
  float* z = packed_vector(kZ, 0, columns);
  if (factors_->usable) precondition(team, r, z, every, columns);
  for (int c = 0; c < columns; ++c) {
    const int64_t at = c * plan_.size;
    const double rz = factors_->usable ? dot(team, r + at, z + at) : 0.0;
    if (positive(rz)) {
      column[c].rz = rz;
      column[c].plain = false;
      std::copy_n(z + at, plan_.size, packed_vector(kP, c, columns));
    } else if (column[c].rr > 0.0) {
      solved[c].restarts = 1;
    }
  }
}

// x and r after the product of p; whether the column goes on.
bool CpuOperator::step_column(Team& team, int c, int columns, const CgParams& cg, CgColumn* column,
                              Solved* solved) {
  const int64_t size = plan_.size;
  float *r = packed_vector(kR, c, columns), *ap = packed_vector(kAp, c, columns);
  const float* p = packed_vector(kP, c, columns);
  const double curvature = dot(team, p, ap);
  if (solved->iterations == 0) {
    solved->first_curvature = std::ldexp(curvature, 2 * column->exponent);
  }
  if (!positive(curvature)) return column->active = false;
  const double alpha = column->rz / curvature, gain = alpha * column->rz;
  kernels_.axpy(static_cast<float>(alpha), p, packed_vector(kX, c, columns), size);
  kernels_.axpy(static_cast<float>(-alpha), ap, r, size);
  column->rr = dot(team, r, r);
  column->gain += gain;
  column->small = gain <= cg.gain_tol * column->gain ? column->small + 1 : 0;
  ++solved->iterations;
  column->active = column->rr > column->threshold && solved->iterations < cg.iterations &&
                   (cg.gain_tol <= 0.0f || column->small < 2);
  return column->active;
}

// p of the listed columns for the next product. Where r'z is not positive, plain CG begins anew.
void CpuOperator::next_directions(Team& team, const float* g, const int* list, int count,
                                  int columns, CgColumn* column, Solved* solved) {
  int with_z[kColumnsAtOnce], found = 0;
  for (int k = 0; k < count; ++k) {
    if (!column[list[k]].plain) with_z[found++] = list[k];
  }
  const float* r = packed_vector(kR, 0, columns);
  float* z = packed_vector(kZ, 0, columns);
  if (found > 0) precondition(team, r, z, with_z, found);
  for (int k = 0; k < count; ++k) {
    CgColumn& at = column[list[k]];
    const int64_t offset = list[k] * plan_.size;
    const double rz = at.plain ? at.rr : dot(team, r + offset, z + offset);
    if (!positive(rz) && !at.plain) {
      begin_column(team, g, list[k], columns, &at);
      solved[list[k]].iterations = 0;
      solved[list[k]].restarts = 1;
      continue;
    }
    kernels_.xpby((at.plain ? r : z) + offset, static_cast<float>(rz / at.rz),
                  packed_vector(kP, list[k], columns), plan_.size);
    at.rz = rz;
  }
}

// g [columns][size]; x and what is left, r, are in `vectors_` on return.
void CpuOperator::conjugate_gradient(Team& team, int columns, const CgParams& cg, const float* g,
                                     Solved* solved) {
  const int64_t size = plan_.size;
  const double tol = std::max<double>(cg.tol, 4.0 * std::numeric_limits<float>::epsilon());
  CgColumn column[kColumnsAtOnce];
  for (int c = 0; c < columns; ++c) {
    solved[c] = Solved{};
    column[c].exponent = exponent_of(g + c * size, size);
    begin_column(team, g, c, columns, &column[c]);
    column[c].threshold = tol * tol * column[c].rr;
    column[c].active = column[c].rr > column[c].threshold && cg.iterations > 0;
  }
  if (cg.factor_stride > 0) begin_preconditioned(team, columns, column, solved);
  for (;;) {
    int list[kColumnsAtOnce], count = 0, going = 0;
    for (int c = 0; c < columns; ++c) {
      if (column[c].active) list[count++] = c;
    }
    if (count == 0) break;
    if (interrupt_()) throw Interrupted{};
    product(team, packed_vector(kP, 0, columns), packed_vector(kAp, 0, columns), list, count);
    for (int k = 0; k < count; ++k) {
      const int c = list[k];
      if (step_column(team, c, columns, cg, &column[c], &solved[c])) list[going++] = c;
    }
    next_directions(team, g, list, going, columns, column, solved);
  }
  for (int c = 0; c < columns; ++c) {
    scale_by_power(packed_vector(kX, c, columns), size, column[c].exponent);
    scale_by_power(packed_vector(kR, c, columns), size, column[c].exponent);
    solved[c].residual_norm = std::ldexp(std::sqrt(column[c].rr), column[c].exponent);
    // x'Ax = x'(g - r): no extra product
    const float* x = packed_vector(kX, c, columns);
    solved[c].linear_gain = dot(team, x, g + c * size);
    solved[c].quad = solved[c].linear_gain - dot(team, x, packed_vector(kR, c, columns));
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
    if (cg.factor_stride > 0) make_factors(team, cg.factor_stride);
    for (int64_t begin = 0; begin < columns; begin += most) {
      const int count = static_cast<int>(std::min(most, columns - begin));
      for (int c = 0; c < count; ++c) {
        pack(plan_, g + (begin + c) * plan_.flat_size, right.data() + c * size);
      }
      conjugate_gradient(team, count, cg, right.data(), solved + begin);
      for (int c = 0; c < count; ++c) {
        unpack(plan_, packed_vector(kX, c, count), x + (begin + c) * plan_.flat_size);
      }
    }
  });
}

}  // namespace trpo_fast::cpu
