// The critic's fit on one batch, in cooperative launches made from the update's stages:
//
//   loss(theta) = sum_n w_n (v(s_n) - t_n)^2 / (2 sum_n w_n)
//
// kCriticAdam goes through minibatches of a given order of the rows: forward, deltas, weight
// gradients, one grid barrier, Adam on each block's slice of the packed parameters, a second barrier.
// kCriticGradient is one pass over every row, kCriticSearch the step of Gauss-Newton: the first of
// theta - c^j x that lowers the loss. Nothing is written unless it is finite.
#pragma once
#include "cuda/api.h"
#include "cuda/resident.cuh"

namespace trpo_fast {

enum CriticProgram : int { kCriticAdam, kCriticGradient, kCriticSearch };

// Passed by value; read from the constant bank.
struct CriticArgs {
  CriticProgram program;
  CriticCall call;
  KernelArgs stage;  // layout and rows, as the stages read them
};

namespace {

enum CriticScalar : int { kCriticRowWeight, kCriticRowLoss, kCriticBad, kCriticScalars };

template <bool kStreamed>
__host__ __device__ inline Block carve_critic(Carve& carve, const Layout& l) {
  Block b{};
  b.reduce = carve.take<float>(kReduceFloats);
  b.work = carve.take<float>(l.work);
  b.tiles = carve.take<float>(l.tile);
  if constexpr (!kStreamed) b.weights = carve.take<float>(l.packed);
  return b;
}

template <bool kStreamed>
__device__ __forceinline__ Block make_critic_block(const CriticArgs& a, unsigned char* shared) {
  Carve carve(shared);
  Block b = carve_critic<kStreamed>(carve, a.stage.layout);
  const CriticScratch& s = a.call.plan.scratch;
  unsigned char* scratch = static_cast<unsigned char*>(a.call.scratch);
  b.index = blockIdx.x;
  b.grid = gridDim.x;
  b.partials = reinterpret_cast<float*>(scratch + s.partials);
  b.solution = reinterpret_cast<float*>(scratch + s.theta);  // packed theta of all blocks
  if constexpr (kStreamed) b.weights = b.solution;
  b.published = reinterpret_cast<double*>(scratch + s.scalars);
  return b;
}

__device__ __forceinline__ float* critic_vector(const CriticArgs& a, int64_t offset) {
  return reinterpret_cast<float*>(static_cast<unsigned char*>(a.call.scratch) + offset);
}

// The weights of the next pass from a flat vector: each block its own, or all of them together, and
// then a grid barrier. Opens with the barrier that ends the reading of the last ones.
template <class V, class Value>
__device__ __forceinline__ void block_critic_weights(const Layout& l, const Block& b, Value value) {
  if constexpr (V::kStreamed) {
    grid_sync();  // every block is done with the last weights
    pack_maps<4>(l, b.weights, grid_party(b), value);
    grid_sync();  // and these are complete
  } else {
    __syncthreads();  // this one is
    pack_maps<4>(l, b.weights, block_party(), value);
    __syncthreads();  // its weights are complete
  }
}

// What a pass adds up over the block's rows, in the threads that own them.
struct CriticSums {
  double weight, loss;
};

// w (v - t) of every row into the last work plane. Closes with a barrier.
__device__ __forceinline__ void block_differences(const CriticArgs& a, const RowSet& set,
                                                  int64_t number, const Block& b,
                                                  CriticSums& sums) {
  const Layout& l = a.stage.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const int r = threadIdx.x;
  if (r < l.rows) {
    const float w = on_chip(b.tiles)[l.row_weights + r];
    float delta = 0.0f;
    if (w > 0.0f) {
      const int64_t n = row_number(set, number * l.rows + r);
      const float difference = on_chip(b.tiles)[m.output + r * m.stride_out] - a.call.targets[n];
      sums.weight += w;
      sums.loss += 0.5 * w * difference * difference;
      delta = w * difference;
    }
    on_chip(b.work)[m.tangent + r * m.stride_tangent] = delta;
  }
  __syncthreads();  // deltas of the outputs are complete
}

// One pass over a set of rows: its loss and, if asked for, the block's partial of its gradient, not
// yet divided by the total weight.
template <class V>
__device__ __forceinline__ CriticSums block_critic_pass(const CriticArgs& a, const Block& b,
                                                        const RowSet& set, bool gradient) {
  const Layout& l = a.stage.layout;
  const Destination to = {b.partials + int64_t{b.index} * l.packed, nullptr};
  CriticSums sums = {0, 0};
  Gradients<V::kSlots> gradients;
  gradients.clear();
  each_tile(a.stage, b, set, [&](int64_t number, int64_t) {
    __syncthreads();  // readers of the last tile are done
    block_load_rows<V>(a.stage, set, number, b.tiles);
    block_forward<V>(l, b.weights, b.tiles, nullptr);
    block_differences(a, set, number, b, sums);
    if (!gradient) return;
    block_deltas<V>(l, b.weights, b.tiles, b.work);
    block_weight_gradients(l, b.tiles, b.work, rows_of(a.stage, set, number), to, gradients);
  });
  if (gradient) block_put_gradients(l, gradients, to);
  return sums;
}

// Publishes what the block's threads added up; read after the next grid barrier.
__device__ __forceinline__ void publish_critic(const Block& b, int region, const CriticSums& sums,
                                               double bad = 0) {
  double all[kCriticScalars] = {sums.weight, sums.loss, bad};
  block_reduce(all, reinterpret_cast<double*>(b.reduce));
  publish(b, region, all);
}

// ---- Adam

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

// beta^t after each step, by multiplication: no pow on the device.
struct AdamPowers {
  double power1, power2;

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
    pack_maps<4>(l, critic_vector(a, offsets[i]), grid_party(b), [&](int k) { return flat[i][k]; });
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
  const double loss = collect(b, kRegionDots, kCriticRowLoss) / weight;
  const bool fine = isfinite(loss) && collect(b, kRegionDots, kCriticBad) == 0;
  if (fine) {
    float* flat[3] = {a.call.theta, a.call.adam.first, a.call.adam.second};
    const int64_t offsets[3] = {s.theta, s.first, s.second};
#pragma unroll
    for (int i = 0; i < 3; ++i)
      block_unpack(l, b, flat[i],
                   [&](int q) { return load4_global(critic_vector(a, offsets[i]) + 4 * q); });
  }
  if (reports(b)) a.call.state[kCriticLoss] = fine ? loss : double{NAN};
}

template <class V>
__device__ __forceinline__ void block_adam(const CriticArgs& a, const Block& b) {
  const CriticAdam& p = a.call.adam;
  block_adam_setup(a, b);
  AdamPowers powers = {p.power1, p.power2};
  CriticSums epoch = {0, 0};
  double weight = 0;
  for (int e = 0; e < p.epochs; ++e) {
    epoch = {0, 0};
    weight = 0;
    for (int64_t at = 0; at < a.call.count; at += p.minibatch) {
      const int64_t left = a.call.count - at, count = left < p.minibatch ? left : p.minibatch;
      const RowSet set = {count, p.order + e * a.call.count + at, false};
      CriticSums sums;
      weight += block_adam_minibatch<V>(a, b, set, powers.next(p), sums);
      epoch.loss += sums.loss;
    }
  }
  block_adam_finish(a, b, epoch, weight);
}

// ---- Gauss-Newton

template <class V>
__device__ __forceinline__ void block_critic_gradient(const CriticArgs& a, const Block& b) {
  const Layout& l = a.stage.layout;
  block_critic_weights<V>(l, b, [&](int k) { return a.call.theta[k]; });
  const CriticSums sums = block_critic_pass<V>(a, b, batch_set(a.stage), true);
  publish_critic(b, kRegionSetup, sums);
  grid_sync();  // partial vectors and sums of all blocks are complete
  const double weight = collect(b, kRegionSetup, kCriticRowWeight);
  const double loss = collect(b, kRegionSetup, kCriticRowLoss) / weight;
  const float scale = static_cast<float>(1.0 / weight);
  block_reduce_slice(l, b, [&](int quad, float4 sum) {
    put_flat(l, quad, axpy4(scale, sum, make_float4(0, 0, 0, 0)), a.call.gradient);
  });
  if (!reports(b)) return;
  a.call.gradient[l.flat] = 0.0f;  // of the head's deviation
  a.call.state[kCriticLoss] = loss;
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
    loss = collect(b, region, kCriticRowLoss) / collect(b, region, kCriticRowWeight);
    found = static_cast<float>(loss) < static_cast<float>(before);
  }
  // All blocks have read theta and state for the last time: each passed the barrier above.
  if (found) block_unpack(l, b, c.theta, [&](int q) { return load4(b.weights + 4 * q); });
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
}  // namespace trpo_fast
