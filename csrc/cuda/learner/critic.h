// Fitting the critic: what a launch needs, from shapes and device limits. Host-only, no CUDA.
//
// The critic's net has one output and no parameters beside its maps'. A block keeps the whole packed
// net and one tile of rows on chip where that fits; otherwise the net stays in global memory.
#pragma once
#include "cuda/resident/config.h"

namespace trpo_fast::cuda {

struct CriticScratch {  // byte offsets into one allocation
  int64_t partials, theta, first, second, scalars, total;
};

struct CriticPlan {
  Path path;
  int row_step;  // a tile has 16 times as many rows
  int slots;     // register tiles of weight gradient a thread owns
  int grid;
  CriticScratch scratch;
  const char* refusal;  // a sentence where path is kNone, otherwise null
};

// A critic's flat vector ends with the unit deviation of its Gaussian, which no fit moves: without a head
// the packed vectors leave that parameter out.
inline NetShape critic_shape(NetShape net) {
  net.head = Head::kNone;
  return net;
}

inline int64_t critic_floats(const Layout& l, Path path) {
  return kReduceFloats + l.work + l.tile + (path == Path::kResident ? l.packed : 0);
}

// `pass_rows`: rows between two grid barriers, a minibatch or the whole batch.
inline CriticPlan make_critic_plan(const NetShape& net, int64_t pass_rows, int grid,
                                   const DeviceLimits& d) {
  const NetShape shape = critic_shape(net);
  CriticPlan p{};
  const auto try_path = [&](Path path, int row_step, int slots) {
    const Layout l = make_layout(shape, kRowGroups * row_step);
    if (p.path != Path::kNone || 4 * critic_floats(l, path) > d.shared_bytes) return;
    p.path = path;
    p.row_step = row_step;
    p.slots = slots;
  };
  const bool narrow = make_layout(shape, kRowGroups).tiles <= kThreads;
  const bool many = tile_count(pass_rows, kRowGroups) > 2 * int64_t{d.multiprocessors};
  if (narrow && many) try_path(Path::kResident, 4, 1);
  try_path(Path::kResident, 1, narrow ? 1 : 3);
  try_path(Path::kStreamed, 1, 3);
  if (p.path == Path::kNone) {
    p.refusal = "one tile of 16 rows of this net does not fit in a block's shared memory";
    return p;
  }
  const int64_t tiles = tile_count(pass_rows, kRowGroups * p.row_step);
  p.grid = grid ? grid : static_cast<int>(tiles < d.multiprocessors ? tiles : d.multiprocessors);
  const int64_t vector = 4 * int64_t{make_layout(shape, kRowGroups).packed};
  const auto take = [&p](int64_t bytes) {
    const int64_t at = p.scratch.total;
    p.scratch.total = (at + bytes + 255) / 256 * 256;
    return at;
  };
  p.scratch.partials = take(p.grid * vector);
  p.scratch.theta = take(vector);
  p.scratch.first = take(vector);
  p.scratch.second = take(vector);
  p.scratch.scalars = take(int64_t{8} * kScalarRegions * kScalars * p.grid);
  return p;
}

}  // namespace trpo_fast::cuda
