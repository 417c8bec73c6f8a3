// The critic's fit under the sanitizers and over schedules: every form of the kernel, minibatches that
// do not divide the rows, more blocks than tiles. A fit must lower the loss, its answer not depend on
// the order in which threads run, and what is not finite must move nothing.
#include <cstring>

#include "kernel_problem.h"

using namespace emulation_cases;

namespace {

struct CriticShape {
  std::vector<int> widths;
  Activation activation;
  int rows;
  int64_t minibatch;
  int grid;
  bool weights = false, streamed = false;
  int row_step = 0;  // 0: as planned
};

class Fit {
 public:
  explicit Fit(const CriticShape& shape)
      : problem({shape.widths, shape.activation, Head::kGaussian, {}, shape.rows, 0}),
        theta(size_t(problem.parameters)),
        first(theta.size()),
        second(theta.size()),
        gradient(theta.size()),
        state(kCriticStates),
        order(size_t(2 * shape.rows)),
        taken(1),
        weights(size_t(shape.rows)) {
    for (int i = 0; i < 2 * shape.rows; ++i)
      order[size_t(i)] = (i * 7 + i / shape.rows) % shape.rows;
    for (int i = 0; i < shape.rows; ++i) weights[size_t(i)] = 0.5f + i % 3;
    call.net = problem.net;
    call.count = shape.rows;
    call.obs = problem.obs->data();
    call.targets = problem.advantages->data();
    call.weights = shape.weights ? weights.data() : nullptr;
    call.theta = theta.data();
    call.state = state.data();
    call.adam = {order.data(), 2,     shape.minibatch, 4e-3f,        0.9f,
                 0.999f,       1e-8f, taken.data(),    first.data(), second.data()};
    call.gradient = gradient.data();
    call.direction = gradient.data();
    call.backtracks = 10;
    DeviceLimits limits{};
    CHECK(trpo_fast_cuda_api()->device_limits(0, &limits) == 0);
    if (shape.streamed) limits.shared_bytes = 40 * 1024;
    call.plan = make_critic_plan(problem.net, shape.rows, shape.grid, limits);
    if (shape.row_step) call.plan.row_step = shape.row_step;
    CHECK((call.plan.path == Path::kStreamed) == shape.streamed);
    scratch = std::make_unique<DeviceArray<unsigned char>>(size_t(call.plan.scratch.total), 0xff);
    call.scratch = scratch->data();
  }

  // The last loss of two epochs of Adam, or of a gradient and a search along it.
  double run(bool adam) {
    memcpy(theta.data(), problem.theta->data(), 4 * theta.size());
    memset(scratch->data(), 0xff, scratch->size());
    for (auto* zero : {&first, &second, &gradient})
      for (float& value : *zero) value = 0;
    for (double& value : state) value = 0;
    taken[0] = 0;
    const CudaApi& api = *trpo_fast_cuda_api();
    for (const auto entry :
         adam ? std::vector{api.critic_adam} : std::vector{api.critic_gradient, api.critic_search})
      if (entry(call)) report(__FILE__, __LINE__, api.error_string(0));
    return state[kCriticLoss];
  }

  double loss() {
    CHECK(trpo_fast_cuda_api()->critic_gradient(call) == 0);
    return state[kCriticLoss];
  }

  Problem problem;
  DeviceArray<float> theta, first, second, gradient;
  DeviceArray<double> state;
  DeviceArray<int64_t> order, taken;
  DeviceArray<float> weights;
  std::unique_ptr<DeviceArray<unsigned char>> scratch;
  CriticCall call{};
};

void check_fit(const CriticShape& shape, bool adam) {
  Fit fit(shape);
  memcpy(fit.theta.data(), fit.problem.theta->data(), 4 * fit.theta.size());
  const double before = fit.loss();
  const emulation::Order chosen = emulation::options.order;
  const double after = fit.run(adam);
  const std::vector<float> theta(fit.theta.begin(), fit.theta.end());
  CHECK(std::isfinite(after) && fit.loss() < before);
  CHECK(theta.back() == fit.problem.theta->end()[-1]);  // the deviation stays
#if !defined(__SANITIZE_THREAD__)                       // TSan sees every order in one
  for (const auto order :
       {emulation::Order::kFifo, emulation::Order::kLifo, emulation::Order::kRandom}) {
    emulation::options.order = order;
    CHECK(fit.run(adam) == after);
    CHECK(!memcmp(theta.data(), fit.theta.data(), 4 * theta.size()));
  }
#endif
  emulation::options.order = chosen;
}

constexpr auto kTanh = Activation::kTanh;

EMULATION_CASE(kernel_critic_adam) {
  check_fit({{5, 9, 7, 1}, kTanh, 70, 33, 3, true}, true);
  check_fit({{3, 1}, Activation::kElu, 7, 3, 4}, true);
  check_fit({{11, 16, 16, 1}, Activation::kSilu, 150, 140, 2, false, false, 4}, true);
}

EMULATION_CASE(kernel_critic_adam_of_wide_nets) {
  check_fit({{17, 129, 33, 1}, Activation::kRelu, 40, 40, 2}, true);
  check_fit({{17, 70, 70, 1}, kTanh, 30, 20, 2, true, true}, true);
}

EMULATION_CASE(kernel_critic_gauss_newton_steps) {
  check_fit({{5, 9, 7, 1}, Activation::kGelu, 70, 70, 3, true}, false);
  check_fit({{17, 70, 70, 1}, kTanh, 30, 30, 2, false, true}, false);
}

EMULATION_CASE(kernel_critic_moves_nothing_that_is_not_finite) {
  for (const bool adam : {true, false}) {
    Fit fit({{5, 9, 1}, kTanh, 40, 20, 2});
    (*fit.problem.obs)[7] = NAN;
    CHECK(std::isnan(fit.run(adam)));
    CHECK(!memcmp(fit.theta.data(), fit.problem.theta->data(), 4 * fit.theta.size()));
  }
}

// For the memory report.
EMULATION_CASE(memory_kernel_critic_adam_of_64_64) {
  check_fit({{11, 64, 64, 1}, kTanh, 64, 64, 1}, true);
}

}  // namespace
