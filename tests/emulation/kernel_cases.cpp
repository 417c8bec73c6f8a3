// The CUDA core's entries under the sanitizers and over schedules: every path, head and way of
// naming rows. That the numbers are right is shown in Python against the reference; here they must
// be finite, obey what any answer obeys, and not depend on the order in which threads run.
#include "kernel_problem.h"

using namespace emulation_cases;

namespace {

constexpr auto kTanh = Activation::kTanh;

void check_product(const ProblemShape& shape) {
  Problem p(shape);
  if (p.run(&CudaApi::fvp).empty()) return;
  for (int c = 0; c < shape.columns; ++c) {
    double quad = 0, norm2 = 0;
    for (int64_t i = c * p.parameters; i < (c + 1) * p.parameters; ++i) {
      CHECK(std::isfinite((*p.out)[i]));
      quad += double((*p.out)[i]) * (*p.in)[i];
      norm2 += double((*p.in)[i]) * (*p.in)[i];
    }
    CHECK(quad >= 0.1 * norm2 * (1 - 1e-5));  // F is positive semi-definite, and damped
  }
}

void check_solve(const ProblemShape& shape) {
  Problem p(shape);
  if (p.run(&CudaApi::solve).empty()) return;
  for (int c = 0; c < shape.columns; ++c) {
    double quad = 0, norm2 = 0;  // x'g and g'g: CG from zero keeps x'(Ax - g) = 0 for every iterate
    for (int64_t i = c * p.parameters; i < (c + 1) * p.parameters; ++i) {
      quad += double((*p.out)[i]) * (*p.in)[i];
      norm2 += double((*p.in)[i]) * (*p.in)[i];
    }
    const double* stats = p.stats->data() + kSolvedCount * c;
    CHECK_NEAR(stats[kSolvedQuad] / quad, 1, 1e-4);
    CHECK_NEAR(stats[kSolvedLinearGain] / quad, 1, 1e-4);
    CHECK(std::isfinite(stats[kSolvedResidual]) && stats[kSolvedIterations] == 3);
    CHECK(stats[kSolvedRestarts] == 0);
    const bool plain = shape.factor_stride == 0;  // otherwise p = M^-1 g
    CHECK(stats[kSolvedFirstCurvature] > (plain ? 0.09 * norm2 : 0));
  }
}

void check_update(const ProblemShape& shape) {
  Problem p(shape);
  const std::vector<float> before(p.theta->begin(), p.theta->end());
  if (p.run(&CudaApi::update).empty()) return;
  const double* stats = p.stats->data();
  CHECK(stats[kStatReason] == kAccepted);
  CHECK(stats[kStatKl] > 0 && stats[kStatKl] <= 0.01 && stats[kStatMaxKl] >= stats[kStatKl]);
  CHECK(stats[kStatSurrogateAfter] > stats[kStatSurrogateBefore]);
  bool moved = false;
  for (int64_t i = 0; i < p.parameters; ++i) {
    CHECK(std::isfinite((*p.theta_out)[i]));
    moved |= (*p.theta_out)[i] != before[i];
  }
  CHECK(moved && !memcmp(before.data(), p.theta->data(), 4 * before.size()));
}

EMULATION_CASE(kernel_fvp_of_odd_shapes) {
  check_product({{3, 5, 2}, kTanh, Head::kGaussian, {}, 1, 0});
  check_product({{11, 17, 33, 3}, Activation::kSilu, Head::kGaussianState, {}, 33, 3, 2});
  check_product({{5, 4}, Activation::kIdentity, Head::kCategorical, {4}, 7, 2});
  check_product({{7, 9, 9, 9, 9, 5}, Activation::kElu, Head::kMultiCategorical, {2, 3}, 40, 4});
}

EMULATION_CASE(kernel_fvp_of_weighted_subsets) {
  check_product({{4, 8, 3}, Activation::kGelu, Head::kBernoulli, {}, 70, 2, 1, true, false, true});
  check_product({{4, 8, 6}, Activation::kRelu, Head::kCategorical, {6}, 37, 4, 1, true, true});
}

EMULATION_CASE(kernel_solve_by_slices_and_by_atomics) {
  check_solve({{11, 16, 16, 3}, kTanh, Head::kGaussian, {}, 100, 4, 2});
  check_solve({{5, 12, 4}, kTanh, Head::kCategorical, {4}, 50, 3, 2, false, false, false, true});
}

EMULATION_CASE(kernel_solve_streams_wide_nets) {
  check_solve({{348, 128, 128, 3}, kTanh, Head::kGaussian, {}, 20, 2});
}

uint64_t barriers_of_solve(Problem& p, int iterations) {
  p.call.cg.iterations = iterations;
  const uint64_t before = emulation::counters.grid_barriers;
  CHECK(trpo_fast_cuda_api()->solve(p.call) == 0);
  CHECK(p.stats->data()[kSolvedIterations] == iterations);
  return emulation::counters.grid_barriers - before;
}

EMULATION_CASE(kernel_solve_takes_two_grid_barriers_an_iteration) {
  for (const bool atomics : {false, true}) {
    ProblemShape shape = {{11, 16, 16, 3}, kTanh, Head::kGaussian, {}, 100, 4};
    shape.atomics = atomics;
    Problem p(shape);
    const uint64_t few = barriers_of_solve(p, 2), many = barriers_of_solve(p, 7);
    CHECK(many - few == 5u * (atomics ? 1 : 2));
    CHECK(few - 2 * (atomics ? 1 : 2) <= 3);  // what surrounds the iterations
  }
}

EMULATION_CASE(kernel_update_of_a_gaussian) {
  check_update({{11, 16, 16, 3}, kTanh, Head::kGaussian, {}, 100, 4});
}

EMULATION_CASE(kernel_update_of_masked_choices) {
  check_update(
      {{6, 12, 5}, Activation::kElu, Head::kMultiCategorical, {2, 3}, 60, 3, 1, true, true});
}

EMULATION_CASE(kernel_update_of_groups) {
  ProblemShape shape = {{4, 10, 2}, kTanh, Head::kGaussian, {}, 60, 3, 1, true};
  shape.group_size = 5;
  check_update(shape);
}

EMULATION_CASE(kernel_update_in_chunks) {
  ProblemShape shape = {{4, 64, 64, 2}, kTanh, Head::kGaussianState, {}, 600, 1, 1};
  shape.chunk_rows = 64;
  shape.reverse = true;
  check_update(shape);
}

// With old_params there is one pass more, theta against the sampler, and the step is what that leaves of max_kl.
void check_update_from_sampler(const ProblemShape& shape) {
  Problem p(shape);
  p.call.search.max_kl = 1e-4f;  // below the KL at the call
  const std::vector<float> before(p.theta->begin(), p.theta->end());
  if (p.run(&CudaApi::update).empty()) return;
  const double* stats = p.stats->data();
  const double at_call = stats[kStatKl];
  CHECK(stats[kStatReason] == kAtKlLimit && at_call > 1e-4 && stats[kStatMaxKl] >= at_call);
  p.call.search.max_kl = float(1.2 * at_call);
  if (p.run(&CudaApi::update).empty()) return;
  CHECK(stats[kStatReason] == kAccepted && stats[kStatKl] <= 1.2 * at_call * (1 + 1e-6));
  CHECK(stats[kStatSurrogateAfter] > stats[kStatSurrogateBefore]);
  p.call.search.limit_max = true;  // some state is farther away than the mean may be
  if (p.run(&CudaApi::update).empty()) return;
  CHECK(stats[kStatReason] == kAtKlLimit);
}

EMULATION_CASE(kernel_update_from_a_sampler) {
  ProblemShape shape = {{11, 16, 16, 3}, kTanh, Head::kGaussian, {}, 100, 4};
  shape.old_params = true;
  check_update_from_sampler(shape);
  shape = {{6, 12, 5}, Activation::kElu, Head::kMultiCategorical, {2, 3}, 60, 3, 1, true, true};
  shape.old_params = true;
  check_update_from_sampler(shape);
  shape = {{4, 10, 2}, kTanh, Head::kGaussian, {}, 60, 3, 1, true};
  shape.old_params = true;
  shape.group_size = 5;
  check_update_from_sampler(shape);
}

ProblemShape in_halves(ProblemShape shape) {
  shape.precision = Precision::kFp16x3;
  return shape;
}

EMULATION_CASE(kernel_split_products) {
  check_product(in_halves({{3, 5, 2}, kTanh, Head::kGaussian, {}, 1, 0}));
  check_product(
      in_halves({{17, 33, 32, 3}, Activation::kSilu, Head::kGaussianState, {}, 70, 3, 2}));
  check_product(in_halves(
      {{4, 8, 6}, Activation::kRelu, Head::kCategorical, {6}, 37, 2, 1, true, true, true}));
}

EMULATION_CASE(kernel_split_solve_by_slices_and_by_atomics) {
  ProblemShape shape = in_halves({{11, 16, 32, 3}, kTanh, Head::kGaussian, {}, 100, 4, 2});
  check_solve(shape);
  shape.atomics = true;
  check_solve(shape);
}

EMULATION_CASE(kernel_split_updates) {
  check_update(in_halves({{11, 64, 64, 3}, kTanh, Head::kGaussian, {}, 130, 1}));
  ProblemShape shape =
      in_halves({{4, 64, 31, 2}, Activation::kElu, Head::kGaussianState, {}, 600, 1, 1});
  shape.chunk_rows = 64;
  check_update(shape);
  shape = in_halves({{4, 10, 2}, Activation::kGelu, Head::kGaussian, {}, 60, 3, 1, true});
  shape.group_size = 5;
  check_update(shape);
  shape.old_params = true;
  check_update_from_sampler(shape);
}

ProblemShape with_factors(ProblemShape shape, int stride) {
  shape.factor_stride = stride;
  return shape;
}

EMULATION_CASE(kernel_preconditioned_solves) {
  check_solve(with_factors({{11, 16, 16, 3}, kTanh, Head::kGaussian, {}, 100, 4, 2}, 3));
  check_solve(with_factors(
      {{20, 33, 5}, Activation::kGelu, Head::kMultiCategorical, {2, 3}, 37, 3, 1, true, true}, 1));
  ProblemShape shape = {{4, 7, 3}, Activation::kRelu, Head::kBernoulli, {}, 70, 2, 2, true};
  shape.atomics = true;
  check_solve(with_factors(shape, 4));
}

EMULATION_CASE(kernel_preconditioned_solves_in_rounds) {
  ProblemShape shape = {{3, 6, 2}, kTanh, Head::kGaussianState, {}, 1100, 2};
  shape.chunk_rows = 64;
  check_solve(with_factors(shape, 1));
  // Two tiles, four blocks: each round's rows in two parts.
  shape = {{3, 2}, Activation::kIdentity, Head::kGaussian, {}, 1100, 4};
  for (const int64_t chunk_rows : {0, 64}) {
    shape.chunk_rows = chunk_rows;
    const Problem p(shape);
    const Layout layout = make_layout(p.net, kRowGroups);
    CHECK(make_factor_layout(layout, p.call.fvp, 1, p.call.plan).parts == 2);
    check_solve(with_factors(shape, 1));
  }
}

EMULATION_CASE(kernel_preconditioned_split_solve) {
  check_solve(with_factors(in_halves({{11, 16, 32, 3}, kTanh, Head::kGaussian, {}, 100, 4, 2}), 2));
}

EMULATION_CASE(kernel_preconditioned_updates) {
  check_update(with_factors({{11, 16, 16, 3}, kTanh, Head::kGaussian, {}, 100, 4}, 2));
  ProblemShape shape = {{6, 12, 5}, Activation::kElu, Head::kMultiCategorical, {2, 3}, 60, 3};
  shape.subset = shape.mask = true;
  shape.gain_tol = 0.1f;
  check_update(with_factors(shape, 1));
}

// Factors that overflow: the same solution as without, one restart said.
EMULATION_CASE(kernel_solve_without_usable_factors) {
  const ProblemShape shape = {{5, 8, 3}, kTanh, Head::kGaussian, {}, 50, 3};
  Problem plain(shape), failing(with_factors(shape, 2));
  for (Problem* p : {&plain, &failing})
    for (float& o : *p->obs) o *= 1e25f;
  plain.run(&CudaApi::solve);
  failing.run(&CudaApi::solve);
  CHECK(plain.stats->data()[kSolvedRestarts] == 0);
  CHECK(failing.stats->data()[kSolvedRestarts] == 1);
  CHECK(!memcmp(plain.out->data(), failing.out->data(), 4 * plain.out->size()));
}

// For the memory report: the shapes of the benchmark cases, a few rows of each.
EMULATION_CASE(memory_kernel_fvp_of_64_64) {
  check_product({{11, 64, 64, 3}, kTanh, Head::kGaussian, {}, 64, 1});
}
EMULATION_CASE(memory_kernel_fvp_of_128_128) {
  check_product({{17, 128, 128, 6}, kTanh, Head::kGaussian, {}, 32, 1});
}
EMULATION_CASE(memory_kernel_update_of_64_64) {
  check_update({{11, 64, 64, 3}, kTanh, Head::kGaussian, {}, 64, 1});
}
EMULATION_CASE(memory_kernel_preconditioned_solve_of_64_64) {
  check_solve(with_factors({{11, 64, 64, 3}, kTanh, Head::kGaussian, {}, 64, 1}, 2));
}
EMULATION_CASE(memory_kernel_split_fvp_of_64_64) {
  check_product(in_halves({{17, 64, 64, 6}, kTanh, Head::kGaussian, {}, 640, 1}));
}

}  // namespace
