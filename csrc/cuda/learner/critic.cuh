// The critic's fit on one batch, in cooperative launches made from the update's stages:
//
//   loss(theta) = sum_n w_n (v(s_n) - t_n)^2 / (2 sum_n w_n)
//
// kCriticAdam is critic_adam.cuh's. kCriticGradient is one pass over every row, kCriticSearch the step
// of Gauss-Newton: the first of theta - c^j x that lowers the loss. Nothing is written unless it is
// finite.
#pragma once
#include "cuda/learner/critic_adam.cuh"

namespace trpo_fast::cuda {
namespace {

template <class V>
__device__ __forceinline__ void block_critic_gradient(const CriticArgs& a, const Block& b) {
  const Layout& l = a.stage.layout;
  block_critic_weights<V>(l, b, [&](int k) { return a.call.theta[k]; });
  const CriticSums sums = block_critic_pass<V>(a, b, batch_set(a.stage), true);
  publish_critic(b, kRegionSetup, sums);
  grid_sync();  // partial vectors and sums of all blocks are complete
  const CriticTotals totals = collect_critic(b, kRegionSetup);
  const float scale = static_cast<float>(1.0 / totals.weight);
  float* room = critic_vector(a, a.call.plan.scratch.first);  // a moment of Adam's, not in use
  block_reduce_to_flat(l, b, room, a.call.gradient,
                       [&](int, float4 sum) { return axpy4(scale, sum, make_float4(0, 0, 0, 0)); });
  if (!reports(b)) return;
  a.call.gradient[l.flat] = 0.0f;  // of the head's deviation
  a.call.state[kCriticLoss] = totals.loss / totals.weight;
}

// The first theta - ratio^j direction with a loss below state's; without one, or after a search that
// found none, nothing moves again.
template <class V>
__device__ __forceinline__ void block_critic_search(const CriticArgs& a, const Block& b) {
  const Layout& l = a.stage.layout;
  const CriticCall& c = a.call;
  if (__ldcg(c.state + kCriticStopped) != 0) return;
  const double before = __ldcg(c.state + kCriticLoss);
  double loss = 0;
  bool found = false;
  float factor = 1.0f;
  for (int j = 0; j < c.backtracks && !found; ++j, factor *= 0.5f) {
    block_critic_weights<V>(l, b, [&](int k) { return c.theta[k] - factor * c.direction[k]; });
    const CriticSums sums = block_critic_pass<V>(a, b, batch_set(a.stage), false);
    const int region = kRegionSearch + j % 2;  // the other one may still be read
    publish_critic(b, region, sums);
    grid_sync();  // every block's loss is published
    const CriticTotals totals = collect_critic(b, region);
    loss = totals.loss / totals.weight;
    found = static_cast<float>(loss) < static_cast<float>(before);
  }
  // All blocks have read theta and state for the last time: each passed the barrier above.
  if (found) block_unpack(l, b, c.theta, [&](int i) { return b.weights[i]; });
  if (!reports(b)) return;
  if (found) {
    c.state[kCriticLoss] = loss;
    c.state[kCriticAccepted] += 1;
  } else {
    c.state[kCriticStopped] = 1;
  }
}

template <class V>
__global__ void __launch_bounds__(kThreads, 1) critic_kernel(const __grid_constant__ CriticArgs a) {
  DYN_SMEM(shared);
  const Block b = make_critic_block<V::kStreamed>(a, shared);
  block_zero(b.work, a.stage.layout.work);  // the padding of every plane stays zero
  block_zero(b.tiles, a.stage.layout.tile);
  __syncthreads();  // the planes are clear
  if (a.program == kCriticAdam) block_adam<V>(a, b);
  if (a.program == kCriticGradient) block_critic_gradient<V>(a, b);
  if (a.program == kCriticSearch) block_critic_search<V>(a, b);
}

}  // namespace
}  // namespace trpo_fast::cuda
