// A preconditioner that fails on the way, which factors of ordinary rows never do: the resident kernel's
// solve, with an inverse that becomes NaN after the first product.
#include "cuda/resident/resident.cuh"
#include "kernel_problem.h"

using namespace emulation_cases;

namespace {

template <class V>
__global__ void failing_solve_kernel(const KernelArgs a) {
  DYN_SMEM(shared);
  const Block b = make_block<V>(a, shared);
  Run run = {};
  Scores score = {};
  score.sums.bad = block_setup<V>(a, b);
  block_factors<V>(a, b);
  run.pcg.usable = block_invert_factors(a, b);
  block_publish_setup<V>(a, score.sums.bad, 0, 0, 0);
  run.column = -1;
  Next next = Next::kColumn;
  for (int product = 0; (next = block_prepare<V, true>(a, b, run, next)) != Next::kDone;
       ++product) {
    if (product == 1 && reports(b)) factor_inverse(a, 0)[0] = NAN;
    block_pass<V>(a, b, fvp_set(a), product_sum(a, b, run.cg), false, true, score);
    next = block_use_product<V, true>(a, b, run);
  }
}

KernelArgs solve_args(const ResidentCall& call) {
  KernelArgs a{};
  a.program = kProgramSolve;
  a.net = call.fvp.net;
  a.layout = make_layout(a.net, kRowGroups * call.plan.row_step);
  a.plan = call.plan;
  a.rows = call.fvp.rows;
  a.fvp_rows = call.fvp.fvp_rows;
  a.fvp_count = call.fvp.fvp_count;
  a.damping = call.fvp.damping;
  a.kl_scale = call.fvp.kl_scale;
  a.cg = call.cg;
  a.atomics = call.atomics;
  a.columns = call.columns;
  a.theta = call.fvp.theta;
  a.v = call.v;
  a.out = call.out;
  a.stats = call.stats;
  a.scratch = static_cast<unsigned char*>(call.scratch);
  a.factors = make_factor_layout(a.layout, call.fvp, call.cg.factor_stride, call.plan);
  return a;
}

int failing_solve(const ResidentCall& call) {
  const KernelArgs args = solve_args(call);
  const auto kernel = args.plan.row_step == 4 ? failing_solve_kernel<Variation<4, 1, false>>
                                              : failing_solve_kernel<Variation<1, 1, false>>;
  return launch(kernel, dim3(args.plan.grid), dim3(kThreads), block_bytes(args.layout, args.plan),
                true, nullptr, args);
}

void check_restart(int rows, int grid, int row_step, bool atomics) {
  ProblemShape shape = {{5, 8, 3}, Activation::kTanh, Head::kGaussian, {}, rows, grid};
  Problem plain(shape);
  plain.run(&CudaApi::solve);
  shape.factor_stride = 2;
  shape.atomics = atomics;
  Problem failing(shape);
  const Plan& plan = failing.call.plan;
  CHECK(plan.slots == 1 && plan.row_step == row_step && plain.call.plan.row_step == row_step);
  CHECK(failing_solve(failing.call) == 0);
  const double* stats = failing.stats->data();
  CHECK(stats[kSolvedRestarts] == 1 && stats[kSolvedIterations] == 3);
  for (int64_t i = 0; i < plain.parameters; ++i)
    CHECK_NEAR((*failing.out)[i], (*plain.out)[i], 1e-5);
  if (!atomics)
    CHECK(!memcmp(plain.out->data(), failing.out->data(), 4 * size_t(plain.parameters)));
}

// One tile of 16 rows a block, and two of 64.
EMULATION_CASE(kernel_restart_is_the_plain_solve) {
  for (const bool atomics : {false, true}) {
    check_restart(50, 4, 1, atomics);
    check_restart(150, 2, 4, atomics);
  }
}

}  // namespace
