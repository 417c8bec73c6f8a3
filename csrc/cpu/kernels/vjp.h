// vjp: back through the cached net on one block of rows. Reads block.outputs (deltas of the net's
// outputs, row weights included), cached activations and obs; adds J' delta to a packed gradient.
// Overwrites block.tangent with the deltas of the hidden layers.
#pragma once
#include "cpu/kernels/forward.h"

namespace trpo_fast::cpu {
namespace {

void bias_gradient(const float* delta, int64_t ld, int rows, int n, float* gradient) {
  for (int i = 0; i < n; i += kVector) {
    V sum = load(gradient + i);
    for (int m = 0; m < rows; ++m) sum += load(delta + m * ld + i);
    store(gradient + i, sum);
  }
}

void weight_gradient(const Plan& plan, int l, const Block& block, const float* delta,
                     float* gradient, bool first) {
  const MapPlan& map = plan.map[l];
  const float* input = input_of(block, l);
  const int64_t ld = input_ld(plan, l), ldd = plan.ld[l + 1];
  if (map.narrow) {
    grad_product({block.rows,
                  map.out,
                  map.in_pad,
                  delta,
                  ldd,
                  input,
                  ld,
                  {gradient + map.weight, kPanel, map.in_pad},
                  !first});
  } else {
    grad_product(
        {block.rows, map.in, map.out_pad, input, ld, delta, ldd, panels_of(map, gradient), !first});
  }
}

// Deltas of the inputs of map l, all but the rows.
RowsJob delta_job(const Plan& plan, int l, const Weights& weights, const Block& block,
                  const float* delta, float* to) {
  const MapPlan& map = plan.map[l];
  RowsJob job{};
  job.n = map.in_pad;
  job.products = 1;
  const Panels b = map.narrow ? Panels{weights.packed + map.weight, kPanel, map.in_pad}
                              : Panels{weights.back + map.back, int64_t{map.out} * kPanel, 0};
  job.product[0] = {delta, plan.ld[l + 1], b, map.out};
  job.c = to;
  job.ldc = job.ldslope = plan.ld[l];
  job.slope = slope_source(plan, block, l);
  return job;
}

// Deltas of the inputs of map l, bias gradient of the map below included.
void delta_below(const Plan& plan, int l, const Weights& weights, const Block& block,
                 const float* delta, float* gradient) {
  RowsJob job = delta_job(plan, l, weights, block, delta, block.tangent[l]);
  job.rows = block.padded_rows;
  job.column_sums = gradient + plan.map[l - 1].bias;
  job.prefetch = block.prefetch;
  with_activation(plan.net.activation,
                  [&]<Activation A>() { rows_product<SlopeEpilogue<A>>(job); });
}

void block_vjp(const Plan& plan, const Weights& weights, const Block& block, float* gradient,
               bool first) {
  const int last = plan.net.maps - 1;
  if (first) {
    for (int l = 0; l <= last; ++l) zero(gradient + plan.map[l].bias, plan.map[l].out_pad);
    zero(gradient + plan.log_std, plan.size - plan.log_std);
  }
  const MapPlan& top = plan.map[last];
  bias_gradient(block.outputs, plan.ld[last + 1], block.rows, top.out_pad, gradient + top.bias);
  const float* delta = block.outputs;
  for (int l = last; l >= 0; --l) {
    weight_gradient(plan, l, block, delta, gradient, first);
    if (l == 0) break;
    delta_below(plan, l, weights, block, delta, gradient);
    delta = block.tangent[l];
  }
}

}  // namespace
}  // namespace trpo_fast::cpu
