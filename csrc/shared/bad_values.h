// The table of what no update can use of a batch, once for g++, nvcc and the host emulation; in Python,
// with the sentences that name the argument, it is trpo_fast/core/bad_values.py.
//
//   weights            finite, at least zero, in every row; a positive total, also over fvp_rows
//   rows of weight zero may hold anything; in the others
//   obs                finite
//   advantages         finite
//   log_probs          finite
//   old_params         finite, where action_mask allows the choice
//   action_mask        allows some choice of every factor
//   actions            numbers that the head's block takes; the categorical heads: choices from 0
//                      to below nvec that action_mask allows
//
// What is cheap for a thread of a kernel comes first and nothing is indexed with a choice before the
// choice is known to exist.
#pragma once
#include "shared/heads.h"

namespace trpo_fast {
namespace {

TRPO_HOST_DEVICE bool usable_weight(float w) { return w >= 0.0f && w < INFINITY; }

// Whether row n chooses among the head's choices; true where the batch has none.
TRPO_HOST_DEVICE bool choices_exist(const NetShape& net, const Rows& rows, int64_t n) {
  bool fine = true;
  for (int f = 0; rows.choices && f < net.factors; ++f) {
    const int64_t choice = rows.choices[n * net.factors + f];
    fine = fine && choice >= 0 && choice < net.nvec[f];
  }
  return fine;
}

// Whether the mask leaves every factor of row n a choice, and the one that was made. The choices exist.
TRPO_HOST_DEVICE bool mask_allows(const NetShape& net, const Rows& rows, int64_t n) {
  if (!rows.mask) return true;
  const uint8_t* mask = rows.mask + n * net.width[net.maps];
  bool fine = true;
  for (int f = 0; f < net.factors; mask += net.nvec[f], ++f) {
    bool some = false;
    for (int i = 0; i < net.nvec[f]; ++i) some = some || mask[i];
    fine = fine && some && (!rows.choices || mask[rows.choices[n * net.factors + f]]);
  }
  return fine;
}

// Whether the parameters that row n was sampled with are numbers.
TRPO_HOST_DEVICE bool usable_old_params(const NetShape& net, const Rows& rows, int64_t n) {
  const int params = dist_params(net);
  const uint8_t* mask = rows.mask ? rows.mask + n * params : nullptr;
  bool fine = true;
  for (int i = 0; rows.old_params && i < params; ++i) {
    fine = fine && ((mask && !mask[i]) || usable_number(rows.old_params[n * params + i]));
  }
  return fine;
}

// Whether an update can use row n, whose weight is positive. Its observation is left out: both cores
// look at it where they load it, usable_number for every entry.
TRPO_HOST_DEVICE bool usable_row(const NetShape& net, const Rows& rows, int64_t n) {
  bool fine = choices_exist(net, rows, n) && mask_allows(net, rows, n);
  if (rows.advantages) fine = fine && usable_number(rows.advantages[n]);
  if (rows.log_probs) fine = fine && usable_number(rows.log_probs[n]);
  fine = fine && usable_old_params(net, rows, n);
  const int actions = action_columns(net);
  for (int i = 0; rows.actions && i < actions; ++i) {
    fine = fine && head_takes(net, rows.actions[n * actions + i]);
  }
  return fine;
}

}  // namespace
}  // namespace trpo_fast
