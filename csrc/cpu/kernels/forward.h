// forward: h_l = act(W_l h_{l-1} + b_l) on one block of rows. Reads obs and packed parameters; writes
// block.hidden, block.slope (silu, gelu) and block.outputs.
#pragma once
#include "cpu/kernels/activation.h"
#include "cpu/kernels/gemm.inc"
#include "cpu/kernels/narrow.inc"

namespace trpo_fast::cpu {
namespace {

TRPO_INLINE const float* input_of(const Block& block, int l) {
  return l == 0 ? block.obs : block.hidden[l];
}
TRPO_INLINE int64_t input_ld(const Plan& plan, int l) {
  return l == 0 ? plan.map[0].in : plan.ld[l];
}

TRPO_INLINE Panels panels_of(const MapPlan& map, const float* packed) {
  return {packed + map.weight, int64_t{map.in} * kPanel, 0};
}

struct NoEpilogue {
  static constexpr bool kReads = false, kLast = true;
  static V slope(V x) { return x; }
};

// In place on [rows, n], the slopes to `slope` where they do not follow from the value.
template <Activation A>
void activate_rows(float* h, float* slope, int64_t ld, int rows, int n) {
  if constexpr (A == Activation::kIdentity) return;
  for (int m = 0; m < rows; ++m) {
    for (int i = 0; i < n; i += kVector) {
      float* at = h + m * ld + i;
      if constexpr (vmath::slope_from_value(A)) {
        store(at, vmath::activate<A, V>(load(at)));
      } else {
        const auto result = vmath::activate_with_slope<A, V>(load(at));
        store(at, result.value);
        store(slope + m * ld + i, result.slope);
      }
    }
  }
}

void outputs_of_last_map(const Plan& plan, const NarrowProduct* products, int count,
                         const float* bias, const Block& block) {
  const int l = plan.net.maps - 1;
  const MapPlan& map = plan.map[l];
  NarrowJob job{block.padded_rows, map.out,       map.in_pad,    count, {},
                bias + map.bias,   block.outputs, plan.ld[l + 1]};
  for (int i = 0; i < count; ++i) job.product[i] = products[i];
  narrow_product(job);
}

void block_forward(const Plan& plan, const Weights& weights, const Block& block) {
  const float* theta = weights.packed;
  const int maps = plan.net.maps;
  for (int l = 0; l < maps; ++l) {
    const MapPlan& map = plan.map[l];
    const float* input = input_of(block, l);
    if (map.narrow) {
      const NarrowProduct product{input, input_ld(plan, l), theta + map.weight, map.in_pad};
      outputs_of_last_map(plan, &product, 1, theta, block);
      continue;
    }
    const bool last = l == maps - 1;
    RowsJob job{};
    job.rows = block.padded_rows;
    job.n = map.out_pad;
    job.products = 1;
    job.product[0] = {input, input_ld(plan, l), panels_of(map, theta), map.in};
    job.bias = theta + map.bias;
    job.c = last ? block.outputs : block.hidden[l + 1];
    job.ldc = plan.ld[l + 1];
    rows_product<NoEpilogue>(job);
    if (last) break;
    with_activation(plan.net.activation, [&]<Activation A>() {
      activate_rows<A>(block.hidden[l + 1], block.slope[l + 1], job.ldc, job.rows, job.n);
    });
  }
}

}  // namespace
}  // namespace trpo_fast::cpu
