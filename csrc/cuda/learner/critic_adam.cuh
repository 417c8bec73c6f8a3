// The critic's fit by Adam: minibatches in a given order of the rows, each a pass, a grid barrier, Adam on
// every block's slice of the packed parameters, and a second barrier.
#pragma once
#include "cuda/learner/critic_pass.cuh"

namespace trpo_fast::cuda {
namespace {

// One step on a quad: m += (1 - beta1)(g - m), v = beta2 v + (1 - beta2) g^2,
// theta -= rate m / (sqrt(v correction) + eps).
struct AdamStep {
  float beta1, beta2, eps, rate, correction;

  __device__ __forceinline__ void one(float g, float& theta, float& m, float& v) const {
    m += (g - m) * (1.0f - beta1);
    v = v * beta2 + g * g * (1.0f - beta2);
    theta -= m * rate / (sqrtf(v * correction) + eps);
  }
  __device__ __forceinline__ void quad(float4 g, float* theta, float* m, float* v) const {
    float4 t = load4(theta), first = load4(m), second = load4(v);
    one(g.x, t.x, first.x, second.x);
    one(g.y, t.y, first.y, second.y);
    one(g.z, t.z, first.z, second.z);
    one(g.w, t.w, first.w, second.w);
    store4(theta, t);
    store4(m, first);
    store4(v, second);
  }
};

// base^exponent, the same for every way to get there: no pow on the device.
__device__ __forceinline__ double integer_power(double base, int64_t exponent) {
  double power = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if (exponent & 1) power *= base;
  return power;
}

// beta^t after each step.
struct AdamPowers {
  double power1, power2;

  __device__ __forceinline__ AdamPowers(const CriticAdam& p, int64_t taken)
      : power1(integer_power(p.beta1, taken)), power2(integer_power(p.beta2, taken)) {}

  __device__ __forceinline__ AdamStep next(const CriticAdam& p) {
    power1 *= p.beta1;
    power2 *= p.beta2;
    return {p.beta1, p.beta2, p.eps, static_cast<float>(p.learning_rate / (1.0 - power1)),
            static_cast<float>(1.0 / (1.0 - power2))};
  }
};

// Packed theta and moments of all blocks, from the flat ones. Closes with a grid barrier.
__device__ __forceinline__ void block_adam_setup(const CriticArgs& a, const Block& b) {
  const Layout& l = a.stage.layout;
  const CriticScratch& s = a.call.plan.scratch;
  const float* flat[3] = {a.call.theta, a.call.adam.first, a.call.adam.second};
  const int64_t offsets[3] = {s.theta, s.first, s.second};
#pragma unroll
  for (int i = 0; i < 3; ++i)
    pack_values<1>(l, critic_vector(a, offsets[i]), grid_party(b),
                   [&](int k) { return flat[i][k]; });
  grid_sync();  // packed theta and moments are complete
}

// One minibatch. Returns its weight, and in `sums` the block's share of its loss.
template <class V>
__device__ __forceinline__ double block_adam_minibatch(const CriticArgs& a, const Block& b,
                                                       const RowSet& set, const AdamStep& step,
                                                       CriticSums& sums) {
  const Layout& l = a.stage.layout;
  const CriticScratch& s = a.call.plan.scratch;
  if constexpr (!V::kStreamed) {
    for (int q = threadIdx.x; q < l.packed / 4; q += kThreads)
      store4(on_chip(b.weights) + 4 * q, load4_global(b.solution + 4 * q));
    __syncthreads();  // this block's copy of theta is complete
  }
  sums = block_critic_pass<V>(a, b, set, true);
  publish_critic(b, kRegionSetup, sums);
  grid_sync();  // partial vectors and weights of all blocks are complete
  const double weight = collect(b, kRegionSetup, kCriticRowWeight);
  const float scale = static_cast<float>(1.0 / weight);
  block_reduce_slice(l, b, [&](int quad, float4 sum) {
    const int at = 4 * quad;
    step.quad(axpy4(scale, sum, make_float4(0, 0, 0, 0)), b.solution + at,
              critic_vector(a, s.first) + at, critic_vector(a, s.second) + at);
  });
  grid_sync();  // theta has moved
  return weight;
}

__device__ __forceinline__ bool finite4(float4 x) {
  return isfinite(x.x) && isfinite(x.y) && isfinite(x.z) && isfinite(x.w);
}

// Theta and moments out if they and the last epoch's mean loss are finite; that loss, or NaN.
__device__ __forceinline__ void block_adam_finish(const CriticArgs& a, const Block& b,
                                                  const CriticSums& epoch, double weight) {
  const Layout& l = a.stage.layout;
  const CriticScratch& s = a.call.plan.scratch;
  const Slice slice = own_slice(l, b);
  double bad = 0;
  for (int q = slice.first + threadIdx.x; q < slice.last; q += kThreads)
    bad += !finite4(load4_global(b.solution + 4 * q));
  publish_critic(b, kRegionDots, epoch, bad);
  grid_sync();  // every block's loss is published
  const CriticTotals totals = collect_critic(b, kRegionDots);
  const double loss = totals.loss / weight;
  const bool fine = isfinite(loss) && totals.bad == 0;
  if (fine) {
    float* flat[3] = {a.call.theta, a.call.adam.first, a.call.adam.second};
    const int64_t offsets[3] = {s.theta, s.first, s.second};
#pragma unroll
    for (int i = 0; i < 3; ++i)
      block_unpack(l, b, flat[i], [&](int k) { return __ldcg(critic_vector(a, offsets[i]) + k); });
  }
  if (reports(b)) a.call.state[kCriticLoss] = fine ? loss : double{NAN};
}

template <class V>
__device__ __forceinline__ void block_adam(const CriticArgs& a, const Block& b) {
  const CriticAdam& p = a.call.adam;
  block_adam_setup(a, b);
  const int64_t taken = *p.taken;  // thread 0 of block 0 writes it, grid barriers later
  AdamPowers powers(p, taken);
  int64_t steps = 0;
  CriticSums epoch = {0, 0};
  double weight = 0;
  for (int e = 0; e < p.epochs; ++e) {
    epoch = {0, 0};
    weight = 0;
    for (int64_t at = 0; at < a.call.count; at += p.minibatch, ++steps) {
      const int64_t left = a.call.count - at, count = left < p.minibatch ? left : p.minibatch;
      const RowSet set = {count, p.order + e * a.call.count + at, false};
      CriticSums sums;
      weight += block_adam_minibatch<V>(a, b, set, powers.next(p), sums);
      epoch.loss += sums.loss;
    }
  }
  block_adam_finish(a, b, epoch, weight);
  if (reports(b)) *p.taken = taken + steps;
}

}  // namespace
}  // namespace trpo_fast::cuda
