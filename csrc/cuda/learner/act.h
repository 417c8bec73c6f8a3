// What a launch of act needs, from shapes and device limits. Host-only, no CUDA: tested without a GPU.
//
// A block serves one net, the policy or the critic. It keeps the whole packed net on chip where that
// fits; otherwise it loads each map in panels of outputs, tile by tile.
#pragma once
#include "cuda/resident/config.h"

namespace trpo_fast::cuda {

constexpr int kActSpareFloats = 256;  // alignment, and the red zones of the emulator under ASan

enum ActSide : int { kActPolicy = 0, kActCritic, kActSides };

struct ActPlan {
  int row_step;              // a tile has 16 times as many rows
  int blocks;                // of each net
  int weights[kActSides];    // floats of packed weights a block keeps: all, or one panel
  bool resident[kActSides];  // all
  const char* refusal;       // a sentence, or null
};

inline int widest_stride(const Layout& l) {
  int widest = 0;
  for (int i = 0; i < l.maps; ++i)
    widest = l.map[i].stride_out > widest ? l.map[i].stride_out : widest;
  return widest;
}

// Of the weights: one row of each map, so that the smallest panel holds any.
inline int smallest_panel(const Layout& l) {
  int most = 0;
  for (int i = 0; i < l.maps; ++i) most = l.map[i].stride_in > most ? l.map[i].stride_in : most;
  return most;
}

// Observations, two planes of outputs that take turns, log_std; everything but weights.
inline int64_t act_plane_floats(const Layout& l) {
  return int64_t{l.rows} * (l.map[0].stride_in + 2 * widest_stride(l)) + padded(l.actions) +
         kActSpareFloats;
}

// False where not even one panel of each net fits beside the planes.
inline bool fill_act_plan(const NetShape* const (&nets)[kActSides], int64_t shared_bytes,
                          ActPlan& p) {
  for (int side = 0; side < kActSides; ++side) {
    if (!nets[side]) continue;
    const Layout l = make_layout(*nets[side], kRowGroups * p.row_step);
    const int64_t room = shared_bytes / 4 - act_plane_floats(l);
    p.resident[side] = l.packed <= room;
    if (!p.resident[side] && room < smallest_panel(l)) return false;
    p.weights[side] = static_cast<int>(p.resident[side] ? l.packed : room);
  }
  return true;
}

// Null stands for a net that is left out. Many rows take larger tiles where the nets still fit.
inline ActPlan make_act_plan(const NetShape* policy, const NetShape* critic, int64_t count,
                             const DeviceLimits& d) {
  const NetShape* const nets[kActSides] = {policy, critic};
  ActPlan p{};
  p.row_step = tile_count(count, kRowGroups) > 2 * int64_t{d.multiprocessors} ? 4 : 1;
  bool fits = fill_act_plan(nets, d.shared_bytes, p);
  if (p.row_step > 1 &&
      !(fits && (!policy || p.resident[kActPolicy]) && (!critic || p.resident[kActCritic]))) {
    p.row_step = 1;
    fits = fill_act_plan(nets, d.shared_bytes, p);
  }
  if (!fits) p.refusal = "one tile of 16 rows of this net does not fit in a block's shared memory";
  const int64_t tiles = tile_count(count, kRowGroups * p.row_step);
  p.blocks = static_cast<int>(tiles < d.multiprocessors ? tiles : d.multiprocessors);
  return p;
}

}  // namespace trpo_fast::cuda
