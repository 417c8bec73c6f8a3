// What the critic's fits share: their arguments, a block's view of memory, and one pass over a set of
// rows, its loss and the block's partial of its gradient. The stages are the update's.
#pragma once
#include "cuda/learner/calls.h"
#include "cuda/resident/resident.cuh"

namespace trpo_fast::cuda {

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
  b.slice = slice_quads(a.stage.layout, b.grid);
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
    pack_values<1>(l, b.weights, grid_party(b), value);
    grid_sync();  // and these are complete
  } else {
    __syncthreads();  // this one is
    pack_values<1>(l, b.weights, block_party(), value);
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
  Gradients<V> gradients;
  gradients.begin(l);
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

// What all blocks published, the same in every thread of every block.
struct CriticTotals {
  double weight, loss, bad;
};

__device__ __forceinline__ CriticTotals collect_critic(const Block& b, int region) {
  const auto [t] = warp_sums<kCriticScalars>(published(b, region), b.grid);
  return {t[kCriticRowWeight], t[kCriticRowLoss], t[kCriticBad]};
}

// Publishes what the block's threads added up; read after the next grid barrier.
__device__ __forceinline__ void publish_critic(const Block& b, int region, const CriticSums& sums,
                                               double bad = 0) {
  double all[kCriticScalars] = {sums.weight, sums.loss, bad};
  block_reduce(all, reinterpret_cast<double*>(b.reduce));
  publish(b, region, all);
}

}  // namespace
}  // namespace trpo_fast::cuda
