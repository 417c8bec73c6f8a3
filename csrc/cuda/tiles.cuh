// A block's tiles of rows: which they are, where their planes come from, and the pass over them that
// makes a gradient-like vector: planes -> deltas -> weight gradients -> the block's partial vector.
#pragma once
#include "cuda/jvp.cuh"
#include "cuda/metric.cuh"
#include "cuda/vjp.cuh"

namespace trpo_fast {
namespace {

__device__ __forceinline__ RowSet fvp_set(const KernelArgs& a) {
  return {a.fvp_count, a.fvp_rows, true};
}

// Every row of the batch; the same tiles as the products' unless those see a subset.
__device__ __forceinline__ RowSet batch_set(const KernelArgs& a) {
  return {a.rows.count, nullptr, a.fvp_rows == nullptr};
}

__device__ __forceinline__ int64_t tiles_of(const KernelArgs& a, const RowSet& set) {
  return (set.count + a.layout.rows - 1) / a.layout.rows;
}

__device__ __forceinline__ int rows_of(const KernelArgs& a, const RowSet& set, int64_t number) {
  const int64_t left = set.count - number * a.layout.rows;
  return left < a.layout.rows ? static_cast<int>(left) : a.layout.rows;
}

// Calls visit(number of the tile, its place among the block's own).
template <class Visit>
__device__ __forceinline__ void each_tile(const KernelArgs& a, const Block& b, const RowSet& set,
                                          Visit visit) {
  const int64_t tiles = tiles_of(a, set);
  int64_t place = 0;
  for (int64_t number = b.index; number < tiles; number += b.grid) visit(number, place++);
}

__device__ __forceinline__ float* cache_slot(const KernelArgs& a, const Block& b, int64_t number) {
  const int64_t slot = number - int64_t{b.grid} * a.plan.resident_tiles;
  return reinterpret_cast<float*>(a.scratch + a.plan.scratch.cache) + slot * a.layout.tile;
}

__device__ __forceinline__ float* work_tile(const KernelArgs& a, const Block& b) {
  return b.tiles + a.plan.resident_tiles * a.layout.tile;
}

// Planes of a tile under theta: on chip, from the cache, or computed again. Closes with a barrier if
// it wrote anything.
template <class V>
__device__ __forceinline__ float* block_fetch(const KernelArgs& a, const Block& b,
                                              const RowSet& set, int64_t number, int64_t place,
                                              int* bad) {
  const Layout& l = a.layout;
  if (set.kept && place < a.plan.resident_tiles) return b.tiles + place * l.tile;
  float* tile = work_tile(a, b);
  __syncthreads();  // readers of the last tile in this place are done
  if (set.kept && a.plan.cached) {
    const float* cached = cache_slot(a, b, number);
    for (int i = 4 * threadIdx.x; i < l.tile; i += 4 * kThreads) cp_async<16>(tile + i, cached + i);
    cp_async_wait_all();
    __syncthreads();  // the copies of every thread have arrived
    return tile;
  }
  *bad |= block_load_rows(a, set, number, tile);
  block_forward<V>(l, b.weights, tile, nullptr);
  return tile;
}

// Stage forward for the rows of the products: fills the resident tiles and the cache. Returns 1 in
// a thread that met an unusable value.
template <class V>
__device__ __forceinline__ int block_forward_tiles(const KernelArgs& a, const Block& b) {
  const Layout& l = a.layout;
  const RowSet set = fvp_set(a);
  int bad = 0;
  each_tile(a, b, set, [&](int64_t number, int64_t place) {
    const bool resident = place < a.plan.resident_tiles;
    if (!resident && !a.plan.cached) return;
    float* tile = resident ? b.tiles + place * l.tile : work_tile(a, b);
    bad |= block_load_rows(a, set, number, tile);
    block_forward<V>(l, b.weights, tile, nullptr);
    if (resident) return;
    float* cached = cache_slot(a, b, number);
    for (int i = 4 * threadIdx.x; i < l.tile; i += 4 * kThreads)
      store4(cached + i, load4(tile + i));
    __syncthreads();  // the tile is copied before its place is used again
  });
  return bad;
}

// Sum of the weights of a set's rows that this block owns; the same in every thread.
__device__ __forceinline__ double block_weight_sum(const KernelArgs& a, const Block& b,
                                                   const RowSet& set) {
  double sum = 0;
  each_tile(a, b, set, [&](int64_t number, int64_t) {
    const int64_t i = number * a.layout.rows + threadIdx.x;
    if (int(threadIdx.x) >= a.layout.rows || i >= set.count) return;
    const float w = row_weight(a.rows, row_number(set, i));
    sum += w > 0.0f ? double{w} : w == 0.0f ? 0.0 : double{NAN};
  });
  return block_sum(sum, reinterpret_cast<double*>(b.reduce));
}

// One pass over the rows of a set: deltas of the outputs, back through the net, weight gradients. The
// cotangent is M J v for v = b.direction or, when scoring, the surrogate's slope (block_score). The
// result goes to the block's partial vector, or is added into `sum` by atomics where that is given.
template <class V>
__device__ __forceinline__ void block_pass(const KernelArgs& a, const Block& b, const RowSet& set,
                                           float* sum, bool scoring, Scores& score) {
  const Layout& l = a.layout;
  const Destination to = {b.partials + int64_t{b.index} * l.packed, sum};
  int bad = 0;
  Gradients<V::kSlots> gradients;
  gradients.clear();
  each_tile(a, b, set, [&](int64_t number, int64_t place) {
    const float* tile = block_fetch<V>(a, b, set, number, place, &bad);
    if (scoring) {
      block_score(a, number, b, tile, score);
    } else {
      block_jvp<V>(l, b.weights, b.direction, tile, b.work);
      block_metric(a, set, number, b, tile);
    }
    block_deltas<V>(l, b.weights, tile, b.work);
    block_weight_gradients(l, tile, b.work, rows_of(a, set, number), to, gradients);
  });
  score.sums.bad += bad;  // read after the gradient's pass only
  block_put_gradients(l, gradients, to);
}

}  // namespace
}  // namespace trpo_fast
