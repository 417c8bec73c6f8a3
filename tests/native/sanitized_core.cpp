// The whole CPU core over small nets: heads, activations, weights, masks, groups, chunks and several
// threads.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/kernels/dispatch.h"
#include "cpu/operator/operator.h"
#include "sanitized.h"
#include "shared/heads.h"

using namespace trpo_fast;
using namespace trpo_fast::cpu;

namespace {

// Exactly sized arrays, so that reading past an end is seen.
struct Problem {
  NetShape net;
  int64_t count;
  std::vector<float> theta, obs, weights, actions, advantages, old_params;
  std::vector<int64_t> choices, some;
  std::vector<uint8_t> mask;

  Problem(const NetShape& shape, int64_t rows, Random& random) : net(shape), count(rows) {
    theta = random.floats(parameters_of(net));
    for (float& t : theta) t *= 0.3f;
    obs = random.floats(rows * net.width[0]);
    advantages = random.floats(rows);
    old_params = random.floats(rows * dist_params(net));
    weights = random.floats(rows);
    for (float& w : weights) w = std::max(w, 0.0f);
    weights[0] = 1.0f;
    for (int64_t i = 0; i < rows; i += 3) some.push_back(i);
    if (net.factors) {
      choices.assign(static_cast<size_t>(rows * net.factors), 0);
      mask.assign(static_cast<size_t>(rows * net.width[net.maps]), 1);
    } else {
      actions = random.floats(rows * action_columns(net));
      if (net.head == Head::kBernoulli) {
        for (float& a : actions) a = a > 0 ? 1.0f : 0.0f;
      }
      if (net.head == Head::kBeta) {
        for (float& a : actions) a = 0.5f + 0.4f * a / (1.0f + std::abs(a));
      }
    }
  }

  FvpParams params(bool weighted, bool subset, bool sampled, int64_t chunk, int64_t group) const {
    FvpParams p{};
    p.net = net;
    p.theta = theta.data();
    p.rows = {count,
              obs.data(),
              weighted ? weights.data() : nullptr,
              mask.empty() ? nullptr : mask.data(),
              actions.empty() ? nullptr : actions.data(),
              choices.empty() ? nullptr : choices.data(),
              advantages.data(),
              nullptr,
              group,
              sampled ? old_params.data() : nullptr};
    if (subset) p.fvp_rows = some.data(), p.fvp_count = static_cast<int64_t>(some.size());
    p.chunk_rows = chunk;
    p.damping = 0.1f;
    p.kl_scale = 1.0f;
    return p;
  }
};

// Everything the core computes, as one vector.
std::vector<float> everything(const Problem& problem, const FvpParams& params,
                              const CpuKernels& kernels, int threads) {
  const CallOptions call{threads, {}};
  CpuOperator op(params, false, kernels);
  const int64_t size = op.plan().flat_size, d = dist_params(problem.net);
  std::vector<float> out(static_cast<size_t>(9 * size + 3 * problem.count * d), 0.0f);
  float *at = out.data(), *rows = at + 9 * size;
  const std::vector<float> v(problem.theta.rbegin(), problem.theta.rend());
  op.forward(rows, call);
  op.jvp(v.data(), rows + problem.count * d, call);
  op.metric(rows + problem.count * d, rows + 2 * problem.count * d, call);
  op.vjp(rows + 2 * problem.count * d, at, call);
  op.gradient(at + size, call);
  op.fvp(at, 2, at + 2 * size, call);
  Solved solved;
  op.solve(v.data(), 1, {4, 0.0f, 0.0f, 0}, at + 4 * size, &solved, call);
  // Random old_params are far away: a limit that leaves room for a step.
  const float max_kl = params.rows.old_params ? 1e3f : 0.01f;
  for (int stride : {0, 3}) {
    float* theta = at + (stride ? 6 : 5) * size;
    std::copy(problem.theta.begin(), problem.theta.end(), theta);
    double stats[kStatCount];
    const UpdateParams update{{4, 0.0f, 0.01f, stride}, {max_kl, 0.8f, 5, false, true, false}, 0.0};
    op.update(update, theta, stats, call);
  }
  Solved both[2];
  op.solve(at, 2, {4, 0.0f, 0.0f, 1}, at + 7 * size, both, call);
  return out;
}

bool check(const Problem& problem, const FvpParams& params, const CpuKernels& kernels) {
  const auto one = everything(problem, params, kernels, 1);
  const auto three = everything(problem, params, kernels, 3);
  return std::memcmp(one.data(), three.data(), one.size() * sizeof(float)) == 0;
}

}  // namespace

bool trpo_fast::cpu::check_core(Isa isa, int bf16_planes) {
  Random random;
  const CpuKernels& kernels = kernels_for(isa, bf16_planes);
  const std::vector<std::vector<int>> shapes = {
      {5, 3}, {1, 7, 4}, {11, 33, 17, 6}, {17, 64, 20, 2}};
  bool good = true;
  for (int i = 0; i < 24; ++i) {
    auto shape = shapes[static_cast<size_t>(i) % shapes.size()];
    const Head head = static_cast<Head>(i % 6);
    if (head == Head::kGaussianState || head == Head::kBeta || shape.back() < 2)
      shape.back() = 2 * (shape.back() / 2 + 1);
    const NetShape net = net_of(shape, static_cast<Activation>(i % 6), head);
    const Problem problem(net, i % 3 == 0 ? 301 : i + 1, random);
    for (int k = 0; k < 6; ++k) {
      const auto params = problem.params(k & 1, k & 2, k >= 4, k == 3 ? 16 : 0, k == 2 ? 1 : 0);
      if (check(problem, params, kernels)) continue;
      std::printf("%s, %d planes, net %d, options %d: bits depend on threads\n", isa_name(isa),
                  bf16_planes, i, k);
      good = false;
    }
  }
  return good;
}
