// A K-FAC preconditioner of one operator: the rows that its factors are made from, their sums, and the
// inverses that conjugate gradient multiplies with.
#pragma once
#include <memory>

#include "cpu/operator/rows.h"

namespace trpo_fast::cpu {

FactorPlan make_factor_plan(const Plan& plan);

// One factor: its sums over rows times `by`.
struct Factor {
  const float* sums;    // [n, ld], the upper triangle
  const float* totals;  // the last row and column of A, or null
  int n, ld;
  double by;

  double at(int i, int j) const {  // i <= j
    if (!totals || j + 1 < n) return by * sums[int64_t{i} * ld + j];
    return i + 1 == n ? 1.0 : by * totals[i];
  }
  double mean_eigenvalue() const;
};

struct Factors {
  explicit Factors(const Plan& net)
      : plan(make_factor_plan(net)), sums(plan.sums_size), inverses(plan.inverses_size) {}

  // A or G of map l.
  Factor inputs(const Plan& net, int l) const;
  Factor outputs(const Plan& net, int l) const;
  int64_t bytes() const;

  FactorPlan plan;
  int stride = 0;                // that of sums and inverses; 0: none yet
  bool usable = false;           // every inverse is positive and finite
  std::unique_ptr<RowSet> rows;  // null where they are those of products
  double by = 0.0;        // times the sums: 1 / the weight of the rows, where it is not in them
  Array<float> sums;      // [plan.sums_size]
  Array<float> inverses;  // [plan.inverses_size]
};

}  // namespace trpo_fast::cpu
