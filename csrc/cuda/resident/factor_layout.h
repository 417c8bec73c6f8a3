// Where K-FAC's factors lie in scratch, behind what every launch has there. Host code fills it in, the
// kernels only read it. No CUDA in here.
//
// Factor 2 l is A of map l, of its inputs with the constant 1; factor 2 l + 1 is G, of its outputs'
// deltas. While they are added up and inverted they are lists of tiles of 16 x 16 doubles, the lower
// triangle row by row; the inverses are squares of floats. Padding up to the tiles' side is zero.
#pragma once
#include "cuda/resident/config.h"
#include "shared/factors.h"

namespace trpo_fast::cuda {

constexpr int kFactorSide = 16;  // of a tile: one element a thread
constexpr int kFactorTile = kFactorSide * kFactorSide;
// Picked rows whose inputs and deltas are kept at a time where chunk_rows bounds memory: a round costs
// two grid barriers, about as long as a block takes for so many rows (predicted).
constexpr int kFactorRows = 1024;
constexpr int kFactorRowsOfPart = 128;  // at least: 16 for each warp
static_assert(kFactorTile == kThreads);

struct FactorPlace {
  int size;        // rows and columns
  int pivots;      // of the sweeps in blocks: all, or all but a lone one behind the last full block
  int blocks;      // of 16
  int column;      // of a picked row, where this factor's vector begins
  int first_tile;  // of the list
  int inverse;     // offset among the inverses, in floats
};

struct FactorLayout {
  int count;          // factors: two for each map; 0 without a preconditioner
  int columns;        // floats of a picked row
  int tiles;          // of all factors
  int parts;          // the rows are split into, so that all blocks have some to add up
  int steps;          // blocks of pivots of the widest factor
  int units;          // quads of columns of all maps: the shares of a product with the inverses
  int stride;         // one of so many rows is picked
  int64_t picked;     // rows in all
  int64_t kept;       // of them at a time
  int64_t rows;       // byte offsets in scratch: [kept, columns]
  int64_t sums;       // lists of tiles: two, and one for every part of the rows but the first
  int64_t inverses;   // floats
  int64_t direction;  // packed M^-1 r
  int64_t total;      // bytes of scratch, what every launch has included
  FactorPlace factor[2 * kMaxMaps];
};

inline FactorLayout make_factor_layout(const Layout& l, const FvpParams& fvp, int stride,
                                       const Plan& plan) {
  FactorLayout f{};
  f.total = plan.scratch.total;
  if (stride <= 0) return f;
  int inverses = 0;
  f.count = 2 * l.maps;
  for (int i = 0; i < f.count; ++i) {
    const MapLayout& m = l.map[i / 2];
    const int size = i % 2 ? m.out : m.in + 1, blocks = ceil_div(size, kFactorSide);
    const int pivots = size % kFactorSide == 1 && size > 1 ? size - 1 : size;
    f.factor[i] = {size, pivots, blocks, f.columns, f.tiles, inverses};
    f.columns += blocks * kFactorSide;
    f.tiles += blocks * (blocks + 1) / 2;
    const int steps = ceil_div(pivots, kFactorSide);
    f.steps = steps > f.steps ? steps : f.steps;
    inverses += blocks * blocks * kFactorTile;
    if (i % 2 == 0) f.units += m.stride_in / 4;
  }
  f.stride = stride;
  f.picked = picked_count(fvp.fvp_rows ? fvp.fvp_count : fvp.rows.count, stride);
  f.kept = fvp.chunk_rows && f.picked > kFactorRows ? kFactorRows : f.picked;
  const int64_t most = f.kept / kFactorRowsOfPart + 1, blocks = plan.grid / f.tiles;
  f.parts = static_cast<int>(blocks < 1 ? 1 : blocks < most ? blocks : most);
  const auto take = [&f](int64_t bytes) {
    const int64_t at = f.total;
    f.total = (at + bytes + 255) / 256 * 256;
    return at;
  };
  f.rows = take(f.kept * f.columns * 4);
  f.sums = take(int64_t{f.parts + 1} * f.tiles * kFactorTile * 8);
  f.inverses = take(int64_t{4} * inverses);
  f.direction = take(int64_t{4} * l.packed);
  return f;
}

}  // namespace trpo_fast::cuda
