// Acting and the critic's fit over small nets: heads, masks, normalisation, weights and several
// threads.
#include <cstdio>
#include <cstring>
#include <numeric>

#include "cpu/kernels/dispatch.h"
#include "cpu/learner/act.h"
#include "cpu/learner/critic.h"
#include "sanitized.h"
#include "shared/heads.h"

using namespace trpo_fast;
using namespace trpo_fast::cpu;

namespace {

// A policy, a critic and E observations, in exactly sized arrays.
struct Acting {
  NetShape policy, critic;
  int64_t count;
  std::vector<float> theta, critic_theta, obs, shift, scale, noise;
  std::vector<uint8_t> mask;

  Acting(const NetShape& net, int64_t rows, Random& random) : policy(net), count(rows) {
    const int inputs = net.width[0], outputs = net.width[net.maps];
    critic = net_of({inputs, 9, 1}, net.activation, Head::kGaussian);
    theta = random.floats(parameters_of(policy));
    critic_theta = random.floats(parameters_of(critic));
    obs = random.floats(count * inputs);
    shift = random.floats(inputs);
    scale = random.floats(inputs);
    const bool normal = net.head == Head::kGaussian || net.head == Head::kGaussianState;
    noise = random.floats(count * (normal ? action_columns(net) : outputs));
    if (!normal) {
      for (float& x : noise) x = 0.5f * x + 0.5f;
    }
    if (net.factors) {
      mask.assign(static_cast<size_t>(count * outputs), 1);
      for (size_t i = 0; i < mask.size(); i += outputs) mask[i + outputs - 1] = outputs < 3;
    }
  }
};

// Actions or choices, log-probabilities, values and what the nets saw, as one vector.
std::vector<float> acted(const Acting& a, bool plain, const CpuKernels& kernels, int threads) {
  const int64_t n = a.count;
  std::vector<float> actions(
      static_cast<size_t>(a.policy.factors ? 0 : n * action_columns(a.policy)));
  std::vector<int64_t> choices(static_cast<size_t>(n * a.policy.factors));
  std::vector<float> log_probs(n), values(n), seen(static_cast<size_t>(n * a.policy.width[0]));
  const float value_shift = 2.0f, value_scale = 3.0f;
  ActParams p{};
  p.policy = {a.policy, a.theta.data()};
  p.critic = {a.critic, a.critic_theta.data()};
  p.count = n;
  p.obs = a.obs.data();
  p.clip = 0.5f;
  if (!plain) {
    p.value_shift = &value_shift, p.value_scale = &value_scale;
    p.shift = a.shift.data(), p.scale = a.scale.data();
    p.seen = seen.data();
    p.mask = a.mask.empty() ? nullptr : a.mask.data();
  }
  p.noise = a.noise.data();
  p.actions = a.policy.factors ? nullptr : actions.data();
  p.choices = a.policy.factors ? choices.data() : nullptr;
  p.log_probs = log_probs.data();
  p.values = values.data();
  act(p, kernels, threads);
  for (const auto* more : {&log_probs, &values, &seen}) {
    actions.insert(actions.end(), more->begin(), more->end());
  }
  actions.insert(actions.end(), choices.begin(), choices.end());
  return actions;
}

// The loss, its gradient, and parameters and moments after two epochs of Adam, as one vector.
std::vector<float> fitted(const NetShape& net, int64_t rows, int64_t minibatch, bool weighted,
                          const CpuKernels& kernels, int threads) {
  Random random;
  std::vector<float> theta = random.floats(parameters_of(net));
  const auto obs = random.floats(rows * net.width[0]), targets = random.floats(rows);
  auto weights = random.floats(rows);
  for (float& w : weights) w = 1.5f + w;
  std::vector<int64_t> order(static_cast<size_t>(2 * rows));
  std::iota(order.begin(), order.begin() + rows, 0);
  std::copy_n(order.begin(), rows, order.rbegin());  // the second epoch backwards
  std::vector<float> gradient(theta.size()), first(theta.size()), second(theta.size());
  const CriticBatch batch = {rows, obs.data(), targets.data(), weighted ? weights.data() : nullptr};
  CriticFit fit(net, batch, kernels);
  std::vector<float> out;
  out.push_back(static_cast<float>(fit.loss(theta.data(), nullptr, threads)));
  out.push_back(static_cast<float>(fit.loss(theta.data(), gradient.data(), threads)));
  const AdamParams params = {order.data(), 2, minibatch, 3, 1e-3f, 0.9f, 0.999f, 1e-8f};
  out.push_back(static_cast<float>(
      fit.adam(params, theta.data(), first.data(), second.data(), threads, [] {})));
  for (const auto* more : {&theta, &gradient, &first, &second}) {
    out.insert(out.end(), more->begin(), more->end());
  }
  return out;
}

bool equal(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool check_acting(Isa isa) {
  Random random;
  const CpuKernels& kernels = kernels_for(isa);
  const std::vector<std::vector<int>> shapes = {
      {5, 2}, {1, 7, 4}, {11, 33, 17, 6}, {17, 64, 20, 4}};
  bool good = true;
  for (int i = 0; i < 20; ++i) {
    const NetShape net = net_of(shapes[static_cast<size_t>(i) % shapes.size()],
                                static_cast<Activation>(i % 6), static_cast<Head>(i % 5));
    const Acting acting(net, i % 4 == 3 ? 600 + i : 3 * i + 1, random);
    for (bool plain : {true, false}) {
      if (equal(acted(acting, plain, kernels, 1), acted(acting, plain, kernels, 3))) continue;
      std::printf("%s, acting %d: bits depend on threads\n", isa_name(isa), i);
      good = false;
    }
  }
  return good;
}

bool check_fitting(Isa isa) {
  const CpuKernels& kernels = kernels_for(isa);
  struct Fitting {
    std::vector<int> widths;
    int64_t rows, minibatch;  // the last is large enough for more than one thread
  };
  const std::vector<Fitting> fits = {
      {{5, 1}, 1, 4}, {{1, 7, 1}, 33, 1}, {{11, 33, 17, 1}, 130, 64}, {{17, 64, 64, 1}, 700, 300}};
  bool good = true;
  for (size_t i = 0; i < 6 * fits.size(); ++i) {
    const Fitting& f = fits[i % fits.size()];
    const NetShape net = net_of(f.widths, static_cast<Activation>(i % 6), Head::kGaussian);
    const auto one = fitted(net, f.rows, f.minibatch, i & 1, kernels, 1);
    if (equal(one, fitted(net, f.rows, f.minibatch, i & 1, kernels, 3))) continue;
    std::printf("%s, fit %zu: bits depend on threads\n", isa_name(isa), i);
    good = false;
  }
  return good;
}

}  // namespace

bool trpo_fast::cpu::check_learner(Isa isa) {
  const bool acting = check_acting(isa), fitting = check_fitting(isa);
  return acting && fitting;
}
