// Stage gradient of the surrogate: one pass over all rows with the score as cotangent. Also what the
// update must know of the old policy: total weights, surrogate, entropy, whether a value is bad.
#pragma once
#include "cuda/resident/cg_resident.cuh"
#include "cuda/resident/flat.cuh"

namespace trpo_fast::cuda {
namespace {

__device__ __forceinline__ float* ratio_row(const KernelArgs& a, int candidate) {
  if (!a.rows.group_size) return nullptr;
  float* ratios = reinterpret_cast<float*>(a.scratch + a.plan.scratch.ratios);
  return ratios + candidate * a.rows.count;
}

// [groups, 2]: W_g / sum w rho and S_g of every group.
__device__ __forceinline__ float* group_table(const KernelArgs& a) {
  return ratio_row(a, kMaxSearchBatch);
}

// The self-normalised surrogate from w rho of every row (all blocks' rows: a grid barrier lies
// between). A warp per group. Returns the block's share of sum W_g S_g; fills `table` if given.
__device__ __forceinline__ double block_groups(const KernelArgs& a, const Block& b,
                                               const float* ratios, float* table) {
  const int64_t size = a.rows.group_size, groups = a.rows.count / size;
  double sum = 0;
  for (int64_t g = b.index * kWarps + warp_index(); g < groups; g += b.grid * kWarps) {
    double mass = 0, gain = 0, weight = 0;
    for (int64_t n = g * size + lane_index(); n < (g + 1) * size; n += 32) {
      const float w = row_weight(a.rows, n);
      if (!(w > 0.0f)) continue;
      const float ratio = __ldcg(ratios + n);
      mass += ratio;
      gain += double{ratio} * a.rows.advantages[n];
      weight += w;
    }
    mass = warp_sum(mass);
    gain = warp_sum(gain);
    weight = warp_sum(weight);
    const bool some = mass > 0;
    if (lane_index() != 0) continue;
    sum += some ? weight * (gain / mass) : mass;  // 0, or NaN
    if (!table) continue;
    table[2 * g] = some ? static_cast<float>(weight / mass) : 0.0f;
    table[2 * g + 1] = some ? static_cast<float>(gain / mass) : 0.0f;
  }
  return block_sum(sum, reinterpret_cast<double*>(b.reduce));
}

// w rho of every row under theta, then the table of groups. Two grid barriers.
template <class V>
__device__ __forceinline__ double block_group_gradient(const KernelArgs& a, const Block& b) {
  const Layout& l = a.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const RowSet set = batch_set(a);
  int bad = 0;
  each_tile(a, b, set, [&](int64_t number, int64_t place) {
    const float* tile = block_fetch<V>(a, b, set, number, place, &bad);
    const int r = threadIdx.x;
    const int64_t n = number * l.rows + r;
    if (r >= l.rows || n >= set.count) return;
    const float w = tile[l.row_weights + r];
    if (w > 0.0f) {
      const float* outputs = tile + m.output + r * m.stride_out;
      ratio_row(a, 0)[n] = w * row_ratio<V>(a, n, outputs, b.weights, outputs, b.weights);
    }
  });
  grid_sync();  // w rho of every row is written
  const double surrogate = block_groups(a, b, ratio_row(a, 0), group_table(a));
  grid_sync();  // the table is complete
  return surrogate;
}

// Publishes what the block knows of its rows; read after the next grid barrier. Not inlined: of two places.
template <class V>
__device__ TRPO_NOINLINE void block_publish_setup(const KernelArgs& a, double bad, double surrogate,
                                                  double entropy, double group_surrogate) {
  DYN_SMEM(shared);
  const Block b = make_block<V>(a, shared);
  double all[kSetupScalars];
  all[kWeight] = own_weights(a, b, batch_set(a));
  all[kFvpWeight] = a.fvp_rows ? own_weights(a, b, fvp_set(a)) : all[kWeight];
  all[kBad] = bad;
  all[kSurrogate] = surrogate;
  all[kEntropy] = entropy;
  block_reduce(all, reinterpret_cast<double*>(b.reduce));
  all[kSurrogate] += group_surrogate;
  publish(b, kRegionSetup, all);
}

// After the gradient's pass: g = d surrogate / d theta, packed, into b.gradient; p = r = g. Two grid
// barriers. r is read by the threads that wrote it; the product's pass opens with a barrier for p.
template <class V>
__device__ __forceinline__ Totals block_finish_gradient(const KernelArgs& a, const Block& b,
                                                        const RowSums& sums,
                                                        double group_surrogate) {
  const Layout& l = a.layout;
  block_publish_setup<V>(a, sums.bad, sums.surrogate, sums.entropy, group_surrogate);
  grid_sync();  // partial vectors and totals of all blocks are complete
  const Totals totals = collect_totals(b);
  const float scale = static_cast<float>(1.0 / totals.weight);
  block_reduce_slice(l, b, [&](int quad, float4 sum) {
    store4(b.gradient + 4 * quad, axpy4(scale, sum, make_float4(0, 0, 0, 0)));
  });
  grid_sync();  // g is complete
  each_loaded<8>(
      threadIdx.x, l.packed / 4, kThreads, [&](int q) { return load4_global(b.gradient + 4 * q); },
      [&](int q, float4 g) {
        store4(b.v + 4 * q, g);
        store4(b.residual + 4 * q, g);
      });
  return totals;
}

}  // namespace
}  // namespace trpo_fast::cuda
