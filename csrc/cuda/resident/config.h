// From shapes and device limits to everything a launch needs: path, tile, shared memory, grid and
// scratch. Host-only, no CUDA: it is tested, and printed by `trpo-fast doctor`, without a GPU.
//
// The resident kernel runs one block per multiprocessor. A block owns every grid-th tile of rows,
// keeps the planes of as many of its tiles as fit in shared memory for the whole solve, and reads
// the others from a cache in global memory, or recomputes them where chunk_rows asks for that.
#pragma once
#include <cstdint>

#include "cuda/resident/layout.h"
#include "cuda/resident/predicted.h"

namespace trpo_fast::cuda {

constexpr int kMaxKernelWidth = 128;         // of hidden layers and of the output
constexpr int kScalars = 16;                 // doubles a block publishes at a time
constexpr int kScalarRegions = 4;            // setup, dots, search (two, alternating)
constexpr int kReduceFloats = 4 * kThreads;  // shared scratch of the reductions
constexpr int kMaxSearchBatch = 4;           // candidates evaluated between two grid barriers
constexpr int kSplitSlots = 3;  // blocks of weight gradient a warp owns in split precision, at most

struct DeviceLimits {
  int multiprocessors;
  int shared_bytes;  // one block may ask for
  int arch;          // 10 * major + minor
};

// Of the products. Split precision multiplies on tensor cores, by three products of 16-bit halves.
enum class Precision : int { kFp32 = 0, kFp16x3 };

struct PlanRequest {
  NetShape net;
  int64_t rows;        // N
  int64_t fvp_count;   // rows of the products; N where fvp_rows is null
  bool fvp_subset;     // fvp_rows is given
  int64_t chunk_rows;  // not 0: rows that are not on chip are recomputed, not cached
  int64_t group_size;
  int grid;  // 0: choose; otherwise the number of blocks (tests)
  Precision precision;
};

enum class Path : int { kNone = 0, kResident, kStreamed };

struct Scratch {  // byte offsets into one allocation
  int64_t partials, vectors, scalars, weights, v, residuals, cache, ratios, total;
};

struct Plan {
  Path path;
  Precision precision;
  int row_step;  // M: rows of a thread's register tile; a tile has 16 M rows
  int slots;     // register tiles of weight gradient a thread owns
  int grid;
  int resident_tiles;  // of each block, kept on chip
  int packed_on_chip;  // vectors of floats: weights, p, r; in split precision r, then p
  bool residual_on_chip, direction_on_chip;
  bool work_tile;  // room for one tile that is not resident
  bool cached;     // tiles that are not resident are kept in global memory
  int search_batch;
  int64_t tiles, fvp_tiles;
  int64_t shared_bytes;
  Scratch scratch;
  const char* refusal;  // a sentence where path is kNone, otherwise null
};

inline int64_t shared_floats(const Layout& l, const Plan& p) {
  const int64_t words = p.precision == Precision::kFp32 ? 0 : 2 * l.halves + l.maps * kMapMarks;
  return words + int64_t{p.packed_on_chip} * l.packed + l.work +
         (p.resident_tiles + p.work_tile) * int64_t{l.tile} + kReduceFloats;
}

inline int64_t tile_count(int64_t rows, int rows_per_tile) {
  return (rows + rows_per_tile - 1) / rows_per_tile;
}

// Everything that follows from a choice of path and register tile.
inline Plan fill_plan(const PlanRequest& q, const DeviceLimits& d, Path path, const Variant& v) {
  const int rows = kRowGroups * v.row_step;
  const bool split = q.precision != Precision::kFp32;
  const Layout l = make_layout(q.net, rows, split);
  Plan p{};
  p.path = path;
  p.precision = q.precision;
  p.packed_on_chip = path == Path::kResident && !split ? 2 : 0;
  p.row_step = v.row_step;
  p.slots = v.slots;
  p.tiles = tile_count(q.rows, rows);
  p.fvp_tiles = tile_count(q.fvp_count, rows);
  const int64_t most = p.tiles > p.fvp_tiles ? p.tiles : p.fvp_tiles;
  p.grid = q.grid ? q.grid : static_cast<int>(most < d.multiprocessors ? most : d.multiprocessors);
  const int64_t own = (p.fvp_tiles + p.grid - 1) / p.grid;
  const int64_t limit = d.shared_bytes / 4;
  const int64_t room = limit - shared_floats(l, p);
  if (room < l.tile) {
    p.path = Path::kNone;
    return p;
  }
  const int64_t fit = room / l.tile;
  p.work_tile = q.fvp_subset || own > fit;
  p.resident_tiles = static_cast<int>(own > fit - p.work_tile ? fit - p.work_tile : own);
  p.cached = own > p.resident_tiles && q.chunk_rows == 0;
  if (path == Path::kResident) p.residual_on_chip = shared_floats(l, p) + l.packed <= limit;
  p.packed_on_chip += p.residual_on_chip;
  p.direction_on_chip = path == Path::kResident && !split;
  if (split && p.residual_on_chip) {
    p.direction_on_chip = shared_floats(l, p) + l.packed <= limit;
    p.packed_on_chip += p.direction_on_chip;
  }
  // One tile a block: a second candidate costs less than a second barrier (predicted).
  p.search_batch = own <= 1 ? 2 : 1;
  p.shared_bytes = 4 * shared_floats(l, p);
  return p;
}

struct Predicted {
  float start_us,
      product_us;  // of a solve on an H200: what precedes its products, and each of them
};

// A tile off chip pays for its planes.
inline Predicted predicted(const NetShape& net, const Plan& p, const Variant& v) {
  const bool split = p.precision != Precision::kFp32;
  const int packed = make_layout(net, kRowGroups * p.row_step, split).packed;
  const float own = static_cast<float>((p.fvp_tiles + p.grid - 1) / p.grid);
  const float off_chip = own - static_cast<float>(p.resident_tiles);
  const float tiles = own + (p.cached ? kCachedShare : kComputedShare) * off_chip;
  const float tile_us = tiles * v.tile.of(packed);  // the forward pass takes about as long
  return {kStart.of(packed) + tile_us, v.step.of(packed) + tile_us};
}

template <int kCount>
const Variant* find_variant(const Variant (&variants)[kCount], const Plan& p) {
  for (const Variant& v : variants)
    if (v.row_step == p.row_step && v.slots == p.slots) return &v;
  return nullptr;
}

// Of a plan that was made; zeros for one that refuses.
inline Predicted predicted(const NetShape& net, const Plan& p) {
  if (p.path == Path::kNone) return {};
  const Variant* v = p.precision != Precision::kFp32 ? find_variant(kSplitVariants, p)
                     : p.path == Path::kStreamed     ? find_variant(kStreamedVariants, p)
                                                     : find_variant(kResidentVariants, p);
  return v ? predicted(net, p, *v) : Predicted{};
}

inline Scratch make_scratch(const PlanRequest& q, const Plan& p, const Layout& l) {
  Scratch s{};
  const auto take = [&s](int64_t bytes) {
    const int64_t at = s.total;
    s.total = (at + bytes + 255) / 256 * 256;
    return at;
  };
  const int64_t vector = int64_t{4} * l.packed;
  s.partials = take(p.grid * vector);
  s.vectors = take(5 * vector);  // the reduced vector (three for atomics), g, x
  s.scalars = take(int64_t{8} * kScalarRegions * kScalars * p.grid);
  const bool weights_on_chip = p.path == Path::kResident && p.precision == Precision::kFp32;
  s.weights = take(weights_on_chip ? 0 : vector);
  s.v = take(p.direction_on_chip ? 0 : p.grid * vector);
  s.residuals = take(p.residual_on_chip ? 0 : p.grid * vector);
  const int64_t off_chip = p.fvp_tiles - int64_t{p.grid} * p.resident_tiles;
  s.cache = take(p.cached ? off_chip * 4 * l.tile : 0);
  s.ratios = take(q.group_size ? q.rows * 4 * (kMaxSearchBatch + 2) : 0);  // and two per group
  return s;
}

inline const char* refusal(const NetShape& net) {
  for (int i = 1; i <= net.maps; ++i)
    if (net.width[i] > kMaxKernelWidth)
      return "the CUDA kernels serve hidden layers and outputs up to 128 wide";
  return nullptr;
}

// The cheapest of some variants; kNone where none fits.
template <int kCount>
inline Plan cheapest_plan(const PlanRequest& q, const DeviceLimits& d,
                          const Variant (&variants)[kCount], int slots) {
  Plan best{};
  float least = 0;
  for (const Variant& v : variants) {
    if (v.slots != slots) continue;
    const Plan p = fill_plan(q, d, Path::kResident, v);
    if (p.path == Path::kNone) continue;
    const float us = predicted(q.net, p, v).product_us;
    if (best.path == Path::kNone || us < least) best = p, least = us;
  }
  return best;
}

inline Plan make_fp32_plan(const PlanRequest& q, const DeviceLimits& d) {
  const int slots = make_layout(q.net, kRowGroups).tiles <= kThreads ? 1 : 3;
  Plan best = cheapest_plan(q, d, kResidentVariants, slots);
  if (best.path == Path::kNone) best = fill_plan(q, d, Path::kStreamed, kStreamedVariants[0]);
  if (best.path == Path::kNone)
    best.refusal = "one tile of 16 rows of this net does not fit in a block's shared memory";
  return best;
}

// Wider or deeper nets than this are for fp32, which streams their weights.
inline Plan make_split_plan(const PlanRequest& q, const DeviceLimits& d) {
  Plan best{};
  const int tiles = make_layout(q.net, kRowGroups, true).tiles;
  if (tiles > kWarps * kSplitSlots) {
    best.refusal =
        "split precision keeps weight gradients in registers, at most 24 blocks of 32 x 32, and "
        "this net has more; use precision='fp32'";
    return best;
  }
  best = cheapest_plan(q, d, kSplitVariants, tiles <= kWarps ? 1 : kSplitSlots);
  if (best.path == Path::kNone)
    best.refusal =
        "split precision keeps the weights and a direction on chip, and those of this net do not "
        "fit beside one tile of 16 rows; use precision='fp32'";
  return best;
}

inline Plan make_plan(const PlanRequest& q, const DeviceLimits& d) {
  Plan best{};
  best.refusal = refusal(q.net);
  const bool split = q.precision != Precision::kFp32;
  if (!best.refusal) best = split ? make_split_plan(q, d) : make_fp32_plan(q, d);
  best.precision = q.precision;
  if (best.refusal) return best;
  const Layout layout = make_layout(q.net, kRowGroups * best.row_step, split);
  best.scratch = make_scratch(q, best, layout);
  return best;
}

}  // namespace trpo_fast::cuda
