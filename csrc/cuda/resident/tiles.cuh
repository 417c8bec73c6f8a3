// A block's tiles of rows: which they are, where their planes come from, and the pass over them that
// makes a gradient-like vector: planes -> deltas -> weight gradients -> the block's partial vector.
#pragma once
#include "cuda/resident/jvp.cuh"
#include "cuda/resident/metric.cuh"
#include "cuda/resident/split_forward.cuh"
#include "cuda/resident/split_stages.cuh"
#include "cuda/resident/split_vjp.cuh"
#include "cuda/resident/vjp.cuh"

namespace trpo_fast::cuda {
namespace {

__device__ __forceinline__ RowSet fvp_set(const KernelArgs& a) {
  return {a.fvp_count, a.fvp_rows, true};
}

// Every row of the batch; the same tiles as the products' unless those see a subset.
__device__ __forceinline__ RowSet batch_set(const KernelArgs& a) {
  return {a.rows.count, nullptr, a.fvp_rows == nullptr};
}

__device__ __forceinline__ int64_t tiles_of(const KernelArgs& a, const RowSet& set) {
  return (set.count + a.layout.rows - 1) >> a.layout.row_shift;
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

// A tile's observations and weights, in the variation's precision; returns as block_load_rows.
template <class V>
__device__ __forceinline__ int block_load_tile(const KernelArgs& a, const RowSet& set,
                                               int64_t number, float* tile) {
  if constexpr (V::kSplit)
    return block_load_halves<typename V::Half>(a, set, number, tile);
  else
    return block_load_rows<V>(a, set, number, tile);
}

// Stage forward of a loaded tile under theta, in the variation's precision, and what the products need
// of the metric.
template <class V>
__device__ __forceinline__ void block_forward_tile(const KernelArgs& a, const Block& b,
                                                   const RowSet& set, int64_t number, float* tile) {
  const Layout& l = a.layout;
  if constexpr (V::kSplit) {
    block_split_forward<typename V::Half>(l, weight_words(b), tile, nullptr, nullptr);
  } else {
    block_forward<V>(l, b.weights, tile, nullptr);
    block_metric_factors(a, set, number, b, tile);
  }
}

// The same under the candidate in b.v: outputs in the last work plane.
template <class V>
__device__ __forceinline__ void block_forward_candidate(const Layout& l, const Block& b,
                                                        float* tile) {
  if constexpr (V::kSplit) {
    block_split_forward<typename V::Half>(l, v_words(b), tile, b.work,
                                          plane_marks(b, kWorkPeaks, 0));
  } else {
    block_forward<V>(l, b.v, tile, b.work);
  }
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
  *bad |= block_load_tile<V>(a, set, number, tile);
  block_forward_tile<V>(a, b, set, number, tile);
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
    bad |= block_load_tile<V>(a, set, number, tile);
    block_forward_tile<V>(a, b, set, number, tile);
    if (resident) return;
    float* cached = cache_slot(a, b, number);
    for (int i = 4 * threadIdx.x; i < l.tile; i += 4 * kThreads)
      store4(cached + i, load4(tile + i));
    __syncthreads();  // the tile is copied before its place is used again
  });
  return bad;
}

// A thread's share of the sum of the weights of a set's rows that this block owns.
__device__ __forceinline__ double own_weights(const KernelArgs& a, const Block& b,
                                              const RowSet& set) {
  double sum = 0;
  each_tile(a, b, set, [&](int64_t number, int64_t) {
    const int64_t i = number * a.layout.rows + threadIdx.x;
    if (int(threadIdx.x) >= a.layout.rows || i >= set.count) return;
    const float w = given_weight(a.rows, row_number(set, i));
    sum += usable_weight(w) ? double{w} : double{NAN};
  });
  return sum;
}

// The stages of a pass over one tile, and what a thread holds of the weight gradients: in fp32.
template <class V>
struct PassStages {
  Gradients<V> gradients;

  __device__ __forceinline__ void begin(const Layout& l) { gradients.begin(l); }
  __device__ __forceinline__ void jvp(const Layout& l, const Block& b, const float* tile) {
    block_jvp<V>(l, b.weights, b.v, tile, b.work);
  }
  __device__ __forceinline__ void vjp(const Layout& l, const Block& b, const float* tile, int rows,
                                      const Destination& to) {
    block_deltas<V>(l, b.weights, tile, b.work);
    block_weight_gradients(l, tile, b.work, rows, to, gradients);
  }
  __device__ __forceinline__ void put(const Layout& l, const Destination& to) {
    block_put_gradients(l, gradients, to);
  }
};

// The same in split precision.
template <class Half, int kSlots>
struct PassStages<SplitVariation<Half, kSlots>> {
  SplitGradients<kSlots> gradients;

  __device__ __forceinline__ void begin(const Layout&) { gradients.clear(); }
  __device__ __forceinline__ void jvp(const Layout& l, const Block& b, const float* tile) {
    block_split_jvp<Half>(l, b, tile);
  }
  __device__ __forceinline__ void vjp(const Layout& l, const Block& b, const float* tile, int rows,
                                      const Destination&) {
    block_split_deltas<Half>(l, b, tile);
    block_split_gradients<Half>(l, b, tile, rows, gradients);
  }
  __device__ __forceinline__ void put(const Layout& l, const Destination& to) {
    block_put_split_gradients(l, gradients, to);
  }
};

// One pass over the rows of a set: deltas of the outputs, back through the net, weight gradients. The
// cotangent is M J v for v = b.v or, when scoring, the surrogate's slope (block_score). The
// result goes to the block's partial vector, or is added into `sum` by atomics where that is given.
// `split`: v's halves, which split precision multiplies by, have to be made.
template <class V>
__device__ __forceinline__ void block_pass(const KernelArgs& a, const Block& b, const RowSet& set,
                                           float* sum, bool scoring, bool split, Scores& score) {
  const Layout& l = a.layout;
  const Destination to = {b.partials + int64_t{b.index} * l.packed, sum};
  int bad = 0;
  PassStages<V> stages;
  stages.begin(l);
  if (split) block_split_v<V>(l, b);
  each_tile(a, b, set, [&](int64_t number, int64_t place) {
    const float* tile = block_fetch<V>(a, b, set, number, place, &bad);
    if (scoring) {
      block_score<V>(a, number, b, tile, score);
    } else {
      stages.jvp(l, b, tile);
      block_metric<V>(a, set, number, b, tile);
    }
    stages.vjp(l, b, tile, rows_of(a, set, number), to);
  });
  score.sums.bad += bad;  // read after the gradient's pass only
  stages.put(l, to);
}

}  // namespace
}  // namespace trpo_fast::cuda
