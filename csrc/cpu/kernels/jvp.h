// jvp: dh_l = act'(z_l) (W_l dh_{l-1} + V_l h_{l-1} + v_l) on one block of rows. Reads obs, cached
// activations, packed parameters and a packed v; writes block.tangent and block.outputs = J v.
#pragma once
#include "cpu/kernels/forward.h"

namespace trpo_fast::cpu {
namespace {

void block_jvp(const Plan& plan, const Weights& weights, const Weights& v, const Block& block) {
  const float *theta = weights.packed, *v_packed = v.packed;
  const int maps = plan.net.maps;
  for (int l = 0; l < maps; ++l) {
    const MapPlan& map = plan.map[l];
    const float* input = input_of(block, l);
    const int64_t ld = input_ld(plan, l);
    if (map.narrow) {
      const NarrowProduct products[2] = {{input, ld, v_packed + map.weight, map.in_pad},
                                         {block.tangent[l], ld, theta + map.weight, map.in_pad}};
      outputs_of_last_map(plan, products, 2, v_packed, block);
      continue;
    }
    RowsJob job{};
    job.rows = block.padded_rows;
    job.n = map.out_pad;
    job.products = l == 0 ? 1 : 2;
    job.product[0] = {input, ld, panels_of(map, v_packed), map.in};
    if (l > 0) job.product[1] = {block.tangent[l], ld, panels_of(map, theta), map.in};
    job.bias = v_packed + map.bias;
    job.ldc = job.ldslope = plan.ld[l + 1];
    job.prefetch = block.prefetch;
    if (l == maps - 1) {
      job.c = block.outputs;
      rows_product<NoEpilogue>(job);
      return;
    }
    job.c = block.tangent[l + 1];
    job.slope = slope_source(plan, block, l + 1);
    with_activation(plan.net.activation,
                    [&]<Activation A>() { rows_product<SlopeEpilogue<A>>(job); });
  }
}

}  // namespace
}  // namespace trpo_fast::cpu
