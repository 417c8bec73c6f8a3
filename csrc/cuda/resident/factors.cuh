// Stage factors: K-FAC's A and G of every map from the picked rows of the products. Blocks keep the
// inputs of their picked rows and the deltas of S xi in scratch; then each adds up some tiles of the
// factors over all of those rows, or over a part of them where blocks are more than tiles; whoever reads
// the tiles first adds up the parts in order. Where chunk_rows bounds memory, rows are kept and added up a
// round at a time.
#pragma once
#include "cuda/resident/gradient.cuh"

namespace trpo_fast::cuda {
namespace {

// Picked rows [first, last), kept at the same time.
struct Round {
  int64_t first, last;
};

__device__ __forceinline__ float* kept_row(const KernelArgs& a, int64_t place) {
  return reinterpret_cast<float*>(a.scratch + a.factors.rows) + place * a.factors.columns;
}

// The place in its round of row `i` of the products' rows; -1 where it is not one of that round.
__device__ __forceinline__ int64_t kept_place(const KernelArgs& a, const Round& round, int64_t i) {
  const int64_t group = i / a.factors.stride;
  if (i >= a.fvp_count || group < round.first || group >= round.last) return -1;
  return picked_row(a.fvp_count, a.factors.stride, group) == i ? group - round.first : -1;
}

// Whether a tile has rows of a round.
__device__ __forceinline__ bool tile_has_kept(const KernelArgs& a, const Round& round,
                                              int64_t number) {
  const int64_t begin = number * a.layout.rows, stride = a.factors.stride;
  const int64_t end = begin + rows_of(a, fvp_set(a), number);
  int64_t group = begin / stride;
  if (group < round.first) group = round.first;
  for (; group < round.last && group * stride < end; ++group) {
    const int64_t i = picked_row(a.fvp_count, a.factors.stride, group);
    if (i >= begin && i < end) return true;
  }
  return false;
}

// S xi of a tile's rows of the round into the last work plane, zeros for the others. The head's factors
// of a row pass through its place in scratch. Opens and closes with a barrier.
template <class V>
__device__ __forceinline__ void block_random_deltas(const KernelArgs& a, const Block& b,
                                                    const Round& round, int64_t number,
                                                    const float* tile) {
  const Layout& l = a.layout;
  const MapLayout& m = l.map[l.maps - 1];
  const int r = threadIdx.x;
  __syncthreads();  // readers of the last tile's deltas are done
  float* row = r < l.rows ? b.work + m.tangent + r * m.stride_tangent : nullptr;
  if (row) {
    for (int i = 0; i < l.parameters; ++i) row[i] = 0.0f;
    const int64_t i = number * l.rows + r, place = kept_place(a, round, i);
    if (place >= 0 && tile[l.row_weights + r] > 0.0f) {
      const int64_t n = row_number(fvp_set(a), i);
      const DistRow dist = dist_row(a, tile + m.output + r * m.stride_out, b.weights, n);
      float* room = kept_row(a, place);
      head_metric_factors(a.net, dist, {room, 1});
      for (int d = 0; d < l.outputs; ++d) row[d] = sign_of(n, d);
      head_metric_root(a.net, dist, {room, 1}, 1.0f, {row, 1});
    }
  }
  if constexpr (V::kSplit) {
    __syncthreads();  // the rows are complete
    put_output_deltas<typename V::Half>(l, b);
  }
  __syncthreads();  // deltas of the outputs are complete
}

// Column k of a row of map i's inputs (and their constant), or of its outputs' deltas.
template <class V>
__device__ __forceinline__ float kept_value(const Layout& l, const Block& b, const float* tile,
                                            int i, bool deltas, int r, int k) {
  const MapLayout& m = l.map[i];
  if constexpr (V::kSplit) {
    if (!deltas && k == m.in) return 1.0f;
    const uint32_t* marks = deltas ? plane_marks(b, kWorkPeaks, i) : tile_marks(l, tile, i);
    const Halves plane =
        plane_halves(l, deltas ? b.work + m.deltas : tile + m.input, deltas ? m.out : m.in);
    return get_half<typename V::Half>(plane, r, k, down_of(band_exponent(marks, r / kBandRows)));
  }
  return deltas ? b.work[m.tangent + r * m.stride_tangent + k]
                : tile[m.input + r * m.stride_in + k];
}

// A tile's rows of the round to scratch: inputs and deltas of every map, padded with zeros, times the
// square root of the row's weight. A warp per row. No barrier: whoever overwrites the planes next opens with one.
template <class V>
__device__ __forceinline__ void block_keep_rows(const KernelArgs& a, const Block& b,
                                                const Round& round, int64_t number,
                                                const float* tile) {
  const Layout& l = a.layout;
  const FactorLayout& all = a.factors;
  for (int r = warp_index(); r < l.rows; r += kWarps) {
    const int64_t place = kept_place(a, round, number * l.rows + r);
    if (place < 0) continue;
    float* row = kept_row(a, place);
    const float scale = sqrtf(tile[l.row_weights + r]);
    for (int i = 0; i < all.count; ++i) {
      const FactorPlace& f = all.factor[i];
      for (int k = lane_index(); k < f.blocks * kFactorSide; k += 32)
        row[f.column + k] =
            k < f.size ? scale * kept_value<V>(l, b, tile, i / 2, i % 2, r, k) : 0.0f;
    }
  }
}

template <class V>
__device__ __forceinline__ void block_keep_round(const KernelArgs& a, const Block& b,
                                                 const Round& round) {
  const Layout& l = a.layout;
  int bad = 0;  // known already
  each_tile(a, b, fvp_set(a), [&](int64_t number, int64_t place) {
    if (!tile_has_kept(a, round, number)) return;
    const float* tile = block_fetch<V>(a, b, fvp_set(a), number, place, &bad);
    block_random_deltas<V>(a, b, round, number, tile);
    if constexpr (V::kSplit) {
      block_split_deltas<typename V::Half>(l, b, tile);
    } else {
      block_deltas<V>(l, b.weights, tile, b.work);
    }
    block_keep_rows<V>(a, b, round, number, tile);
  });
}

// Sum of the weights of the block's picked rows; the same in every thread.
__device__ __forceinline__ double block_picked_weight(const KernelArgs& a, const Block& b) {
  const Round every = {0, a.factors.picked};
  double sum = 0;
  each_tile(a, b, fvp_set(a), [&](int64_t number, int64_t) {
    const int64_t i = number * a.layout.rows + threadIdx.x;
    if (int(threadIdx.x) >= a.layout.rows || kept_place(a, every, i) < 0) return;
    const float w = given_weight(a.rows, row_number(fvp_set(a), i));
    sum += usable_weight(w) ? double{w} : double{NAN};
  });
  return block_sum(sum, reinterpret_cast<double*>(b.reduce));
}

// Where a tile of the list lies: its factor, and which 16 rows and columns of that.
struct FactorTile {
  int factor, row, column;
};

__device__ __forceinline__ FactorTile factor_tile(const FactorLayout& all, int t) {
  FactorTile at = {0, 0, 0};
  while (at.factor + 1 < all.count && t >= all.factor[at.factor + 1].first_tile) ++at.factor;
  at.column = t - all.factor[at.factor].first_tile;
  while (at.column > at.row) at.column -= ++at.row;
  return at;
}

// Tile number t of a list: 0 and 1 are what the sweeps read and write in turn; at first parts of the rows
// are in 0, 2, 3, ...
__device__ __forceinline__ double* tile_sums(const KernelArgs& a, int list, int t) {
  return reinterpret_cast<double*>(a.scratch + a.factors.sums) +
         (int64_t{list} * a.factors.tiles + t) * kFactorTile;
}

__device__ __forceinline__ int part_list(int part) { return part == 0 ? 0 : part + 1; }

// An element of a tile in the first `parts` lists of parts together.
__device__ __forceinline__ double part_sum(const KernelArgs& a, int parts, int t, int element) {
  double sum = 0;
#pragma unroll 4
  for (int part = 0; part < parts; ++part)
    sum += __ldcg(tile_sums(a, part_list(part), t) + element);
  return sum;
}

// A lane's share of a tile: two rows by a quad of columns.
struct TilePatch {
  float4 sum[2];
};

// sum_n x_n y_n' over the kept rows of a part, then over the warps, in warp 0.
__device__ __forceinline__ TilePatch block_outer(const KernelArgs& a, const Block& b, int part,
                                                 int kept, int rows_at, int columns_at) {
  struct Row {
    float2 x;
    float4 y;
  };
  const int lane = lane_index(), warp = warp_index();
  const float* rows = kept_row(a, 0);
  TilePatch patch = {};
  each_loaded<16>(
      part * kWarps + warp, kept, a.factors.parts * kWarps,
      [&](int n) {
        const float* row = rows + int64_t{n} * a.factors.columns;
        const float* x = row + rows_at + lane / 4 * 2;
        return Row{__ldcg(reinterpret_cast<const float2*>(x)),
                   load4_global(row + columns_at + lane % 4 * 4)};
      },
      [&](int, const Row& row) {
        patch.sum[0] = axpy4(row.x.x, row.y, patch.sum[0]);
        patch.sum[1] = axpy4(row.x.y, row.y, patch.sum[1]);
      });
  for (int half = kWarps / 2; half > 0; half /= 2) {
    float* staged = b.reduce + (warp % half) * kFactorTile + lane * 8;
    __syncthreads();  // what was staged before has been read
    if (warp >= half && warp < 2 * half)
      for (int i = 0; i < 2; ++i) store4(staged + 4 * i, patch.sum[i]);
    __syncthreads();  // the upper half's sums are staged
    if (warp < half)
      for (int i = 0; i < 2; ++i) patch.sum[i] = add4(patch.sum[i], load4(staged + 4 * i));
  }
  return patch;
}

// Adds the rows of a round, times `scale`, to the block's tiles of the lists of parts.
__device__ __forceinline__ void block_add_round(const KernelArgs& a, const Block& b,
                                                const Round& round, double scale) {
  const FactorLayout& all = a.factors;
  for (int unit = b.index; unit < all.parts * all.tiles; unit += b.grid) {
    const int t = unit % all.tiles, part = unit / all.tiles;
    const FactorTile at = factor_tile(all, t);
    const int from = all.factor[at.factor].column;
    const TilePatch patch =
        block_outer(a, b, part, static_cast<int>(round.last - round.first),
                    from + at.row * kFactorSide, from + at.column * kFactorSide);
    if (warp_index() != 0) continue;
    const double factor = at.factor % 2 ? scale * a.kl_scale : scale;
    double* to = tile_sums(a, part_list(part), t) + lane_index() / 4 * 2 * kFactorSide +
                 lane_index() % 4 * 4;
    for (int i = 0; i < 2; ++i, to += kFactorSide) {
      const float part[4] = {patch.sum[i].x, patch.sum[i].y, patch.sum[i].z, patch.sum[i].w};
      for (int j = 0; j < 4; ++j) to[j] = (round.first ? to[j] : 0.0) + factor * part[j];
    }
  }
}

// A and kl_scale G of every map as lists of tiles. Closes with a grid barrier.
template <class V>
__device__ __forceinline__ void block_factors(const KernelArgs& a, const Block& b) {
  const double weight[1] = {block_picked_weight(a, b)};
  publish(b, kRegionSearch, weight);
  double scale = 0;
  for (int64_t first = 0; first < a.factors.picked; first += a.factors.kept) {
    const int64_t left = a.factors.picked - first;
    const Round round = {first, first + (left < a.factors.kept ? left : a.factors.kept)};
    block_keep_round<V>(a, b, round);
    grid_sync();  // the rows of the round, and every block's weight, are written
    if (first == 0) scale = 1.0 / collect(b, kRegionSearch, 0);
    block_add_round(a, b, round, scale);
    grid_sync();  // the tiles are complete, and the rows have been read
  }
}

}  // namespace
}  // namespace trpo_fast::cuda
