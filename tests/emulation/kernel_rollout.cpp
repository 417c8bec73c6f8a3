// act and gae under the sanitizers and over schedules: every head, nets that fit on chip and nets that
// are loaded in panels, few rows and many; scans of odd lengths against the plain loop.
#include <cstring>

#include "kernel_problem.h"

using namespace emulation_cases;

namespace {

struct ActShape {
  ProblemShape policy;  // rows, masks and head
  std::vector<int> critic;
  bool normalise = false, values_only = false;
};

// Runs `launch` under three schedules; its outputs must not change a bit.
template <class Launch>
void check_schedules(Launch launch, const std::vector<DeviceArray<float>*>& outputs) {
  const emulation::Order chosen = emulation::options.order;
  std::vector<float> first;
  for (const auto order :
       {chosen, emulation::Order::kFifo, emulation::Order::kLifo, emulation::Order::kRandom}) {
    for (auto* out : outputs)
      for (float& value : *out) value = NAN;
    emulation::options.order = order;
    CHECK_LAUNCH(static_cast<cudaError_t>(launch()));
    std::vector<float> all;
    for (auto* out : outputs) all.insert(all.end(), out->begin(), out->end());
    for (const float value : all) CHECK(std::isfinite(value));
    if (first.empty()) first = all;
    CHECK(!memcmp(first.data(), all.data(), 4 * all.size()));
#if defined(__SANITIZE_THREAD__)
    break;  // TSan sees every order in one
#endif
  }
  emulation::options.order = chosen;
}

void check_act(const ActShape& shape) {
  ProblemShape critic_shape = shape.policy;
  critic_shape.widths = shape.critic;
  critic_shape.head = Head::kGaussian;
  critic_shape.nvec = {};
  critic_shape.mask = false;
  Problem policy(shape.policy), critic(critic_shape);
  const int64_t rows = shape.policy.rows;
  const int outputs = policy.net.width[policy.net.maps], columns = action_columns(policy.net);
  DeviceArray<float> actions(size_t(rows) * columns), log_probs{size_t(rows)}, values {
    size_t(rows)
  };
  DeviceArray<float> seen(policy.obs->size()), shift(size_t(policy.net.width[0]), 0.5f);
  DeviceArray<float> noise(size_t(rows) * outputs, 0.25f);
  DeviceArray<int64_t> choices(size_t(rows) * columns, 0);
  ActCall call{};
  DeviceLimits limits{};
  CHECK(trpo_fast_cuda_api()->device_limits(0, &limits) == 0);
  call.plan = make_act_plan(shape.values_only ? nullptr : &policy.net, &critic.net, rows, limits);
  CHECK(!call.plan.refusal);
  call.policy = policy.net;
  call.critic = critic.net;
  call.theta = shape.values_only ? nullptr : policy.theta->data();
  call.critic_theta = critic.theta->data();
  call.count = rows;
  call.obs = policy.obs->data();
  call.shift = call.scale = shape.normalise ? shift.data() : nullptr;
  call.clip = 0.75f;
  call.seen = shape.values_only ? nullptr : seen.data();
  call.mask = policy.call.fvp.rows.mask;
  call.noise = noise.data();
  call.actions = policy.net.factors ? nullptr : actions.data();
  call.choices = policy.net.factors ? choices.data() : nullptr;
  call.log_probs = log_probs.data();
  call.values = values.data();
  std::vector<DeviceArray<float>*> written = {&values};
  if (!shape.values_only) written.insert(written.end(), {&log_probs, &seen});
  if (!shape.values_only && call.actions) written.push_back(&actions);
  check_schedules([&] { return trpo_fast_cuda_api()->act(call); }, written);
  for (size_t i = 0; i < seen.size() && shape.normalise && !shape.values_only; ++i)
    CHECK(std::fabs(seen[i]) <= 0.75f);
}

constexpr auto kTanh = Activation::kTanh;

EMULATION_CASE(kernel_act_of_every_head) {
  check_act({{{5, 9, 7, 3}, kTanh, Head::kGaussian, {}, 17, 0}, {5, 6, 1}, true});
  check_act({{{3, 8, 4}, Activation::kSilu, Head::kGaussianState, {}, 1, 0}, {3, 1}});
  check_act({{{4, 33, 5}, Activation::kElu, Head::kMultiCategorical, {2, 3}, 40, 0, 1, false, true},
             {4, 7, 1}});
  check_act({{{6, 5}, Activation::kRelu, Head::kBernoulli, {}, 70, 0}, {6, 12, 12, 1}, true});
}

EMULATION_CASE(kernel_act_of_many_rows) {
  check_act({{{5, 16, 4}, kTanh, Head::kCategorical, {4}, 150, 0}, {5, 16, 1}, true});
}

EMULATION_CASE(kernel_act_loads_wide_nets_in_panels) {
  check_act({{{348, 160, 128, 2}, kTanh, Head::kGaussian, {}, 9, 0}, {348, 128, 128, 1}});
}

EMULATION_CASE(kernel_act_of_values_alone) {
  ActShape shape = {{{5, 16, 4}, kTanh, Head::kCategorical, {4}, 33, 0}, {5, 16, 1}, true};
  shape.values_only = true;
  check_act(shape);
}

void check_gae(int64_t steps, int64_t envs) {
  const size_t count = size_t(steps * envs);
  DeviceArray<float> rewards(count), values(count), following(count), advantages(count);
  DeviceArray<uint8_t> done(count, 0);
  uint32_t state = 1;
  const auto next = [&state] {
    state = state * 1664525u + 1013904223u;
    return float(int(state >> 8) - (1 << 23)) * 0x1p-23f;
  };
  for (size_t i = 0; i < count; ++i) {
    rewards[i] = next(), values[i] = next(), following[i] = next();
    done[i] = next() > 0.8f;
  }
  const GaeCall call = {0,
                        nullptr,
                        steps,
                        envs,
                        rewards.data(),
                        values.data(),
                        following.data(),
                        done.data(),
                        0.99f,
                        0.9f,
                        advantages.data()};
  check_schedules([&] { return trpo_fast_cuda_api()->gae(call); }, {&advantages});
  for (int64_t e = 0; e < envs; ++e) {
    double ahead = 0;
    for (int64_t i = (steps - 1) * envs + e; i >= 0; i -= envs) {
      ahead = rewards[i] + 0.99 * following[i] - values[i] + (done[i] ? 0 : 0.9 * ahead);
      CHECK_NEAR(advantages[i], ahead, 1e-5);
    }
  }
}

EMULATION_CASE(kernel_gae_of_odd_shapes) {
  check_gae(1, 1);
  check_gae(1030, 1);
  check_gae(131, 3);
  check_gae(7, 40);
  check_gae(33, 130);
}

// For the memory report.
EMULATION_CASE(memory_kernel_act_of_64_64) {
  check_act({{{11, 64, 64, 3}, kTanh, Head::kGaussian, {}, 64, 0}, {11, 64, 64, 1}, true});
}
EMULATION_CASE(memory_kernel_gae) { check_gae(128, 64); }

}  // namespace
