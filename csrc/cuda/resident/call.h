// What one launch of the update's kernels is asked for: a product, a solve, a gradient, an evaluation
// or a whole update.
#pragma once
#include "cuda/resident/config.h"
#include "cuda/resident/factor_layout.h"

namespace trpo_fast::cuda {

struct ResidentCall {
  int device;
  void* stream;
  Plan plan;       // of make_plan for these shapes and this device
  FvpParams fvp;   // net, theta, rows, fvp_rows, damping, kl_scale
  int columns;     // right-hand sides K
  const float* v;  // [K, P]; g of a solve; [P] parameters of an evaluation
  float* out;
  double* stats;
  void* scratch;  // scratch_bytes, 256-byte aligned, any contents
  CgParams cg;
  bool atomics;  // fast mode of the solve: one grid barrier per product, bits may differ
  SearchParams search;
  float learning_rate;  // npg with a fixed rate; not positive: the KL-normalised step
  float* theta_out;     // [P], may be fvp.theta: written only on acceptance
};

// What a launch needs of scratch: with K-FAC's factors from one of `factor_stride` rows, if not 0.
inline int64_t scratch_bytes(const Plan& plan, const FvpParams& fvp, int factor_stride) {
  const bool split = plan.precision != Precision::kFp32;
  const Layout layout = make_layout(fvp.net, kRowGroups * plan.row_step, split);
  return make_factor_layout(layout, fvp, factor_stride, plan).total;
}

}  // namespace trpo_fast::cuda
