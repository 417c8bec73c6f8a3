// Where the factors of a K-FAC preconditioner and their inverses lie, for one net and one instruction
// set. Map l has A, of its inputs (h, 1), and G, of the deltas of its outputs.
#pragma once
#include "cpu/kernels/plan.h"

namespace trpo_fast::cpu {

constexpr int kPieceRows = 24;    // of one task of a preconditioner's product; whole tiles anywhere
constexpr int kInverseRows = 12;  // the rows of an inverse are padded to so many

// Sums over rows, of the upper triangle alone: a row begins with the vector that holds its diagonal.
struct PairSums {
  int64_t inputs;   // [in, in_pad] of h h'
  int64_t totals;   // [in_pad] of h
  int64_t outputs;  // [out, out_pad] of d d'
};

// An inverse [n, n], rows padded to kInverseRows and columns to whole vectors by zeros.
struct InversePlan {
  int n, rows, ld;
  int64_t at;
};

struct FactorPlan {
  PairSums sums[kMaxMaps];
  InversePlan inputs[kMaxMaps], outputs[kMaxMaps];
  int64_t sums_size, inverses_size;
  int widest;                // columns of any matrix here
  int pieces[kMaxMaps + 1];  // tasks of a product before those of map l
};

}  // namespace trpo_fast::cpu
