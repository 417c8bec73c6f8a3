// factors: what one block of rows adds to the sums of h h', h and d d' of every map, by one pass back
// from the deltas S xi in block.outputs, which carry the square roots of the rows' weights.
#pragma once
#include "cpu/kernels/factor_plan.h"
#include "cpu/kernels/vjp.h"

namespace trpo_fast::cpu {
namespace {

template <int NV = kPanelVectors>
TRPO_INLINE void symmetric_tile(const GradJob& job, int m, int n, int rows, int vectors) {
  if constexpr (NV > 0) {
    if (vectors == NV) {
      float* c = const_cast<float*>(job.c.base) + m * job.c.ld + n;
      return grad_tile_of<NV>(job, m, n, c, job.c.ld, rows);
    }
    symmetric_tile<NV - 1>(job, m, n, rows, vectors);
  }
}

// The upper triangle of a grad_product that is symmetric, with C [m, n] in one piece.
void symmetric_product(const GradJob& job) {
  for (int m = 0; m < job.m; m += kTileRows) {
    const int rows = job.m - m < kTileRows ? job.m - m : kTileRows;
    for (int n = m / kVector * kVector; n < job.n;) {
      const int left = (job.n - n) / kVector;
      const int vectors = left < kPanelVectors ? left : kPanelVectors;
      symmetric_tile<>(job, m, n, rows, vectors);
      n += vectors * kVector;
    }
  }
}

// w_n x_n, or x_n where `scale` is null, in padded rows.
void scale_rows(const float* x, int64_t ld, int rows, int n, int n_pad, const float* scale,
                float* to) {
  for (int m = 0; m < rows; ++m) {
    const float w = scale ? scale[m] : 1.0f;
    for (int i = 0; i < n; ++i) to[m * n_pad + i] = w * x[m * ld + i];
    for (int i = n; i < n_pad; ++i) to[m * n_pad + i] = 0.0f;
  }
}

void input_sums(const Plan& plan, const PairSums& at, int l, const Block& block, const float* scale,
                float* scaled, float* sums, bool first) {
  const MapPlan& map = plan.map[l];
  const float *h = input_of(block, l), *weighted = h;
  const int64_t ld = input_ld(plan, l);
  int64_t ldw = ld;
  if (scale || l == 0) {  // rows of the observations are not whole vectors
    scale_rows(h, ld, block.rows, map.in, map.in_pad, scale, scaled);
    weighted = scaled;
    ldw = map.in_pad;
  }
  const Panels c{sums + at.inputs, kPanel, map.in_pad};
  symmetric_product({block.rows, map.in, map.in_pad, h, ld, weighted, ldw, c, !first});
  if (first) zero(sums + at.totals, map.in_pad);
  bias_gradient(weighted, ldw, block.rows, map.in_pad, sums + at.totals);
}

// Whole tiles, the last one again over rows of the one before: no row past the block's is needed.
void factor_delta_below(const Plan& plan, int l, const Weights& weights, const Block& block,
                        const float* delta, float* to) {
  const RowsJob every = delta_job(plan, l, weights, block, delta, to);
  const auto run = [&](int begin, int rows) {
    RowsJob job = every;
    job.rows = rows;
    job.product[0].a += begin * job.product[0].lda;
    job.c += begin * job.ldc;
    if (job.slope) job.slope += begin * job.ldslope;
    with_activation(plan.net.activation,
                    [&]<Activation A>() { rows_product<SlopeEpilogue<A>>(job); });
  };
  const int whole = block.rows / kTileRows * kTileRows;
  if (whole > 0) run(0, whole);
  if (whole < block.rows) run(whole > 0 ? block.rows - kTileRows : 0, kTileRows);
}

// planes: three of [block_rows, widest], for weighted inputs and the deltas of two maps in turn.
void block_factors(const Plan& plan, const FactorPlan& factors, const Weights& weights,
                   const Block& block, const float* scale, float* const* planes, float* sums,
                   bool first) {
  const float* delta = block.outputs;
  for (int l = plan.net.maps - 1; l >= 0; --l) {
    const MapPlan& map = plan.map[l];
    const PairSums& at = factors.sums[l];
    input_sums(plan, at, l, block, scale, planes[0], sums, first);
    const int64_t ld = plan.ld[l + 1];
    const Panels c{sums + at.outputs, kPanel, map.out_pad};
    symmetric_product({block.rows, map.out, map.out_pad, delta, ld, delta, ld, c, !first});
    if (l == 0) break;
    factor_delta_below(plan, l, weights, block, delta, planes[1 + l % 2]);
    delta = planes[1 + l % 2];
  }
}

}  // namespace
}  // namespace trpo_fast::cpu
