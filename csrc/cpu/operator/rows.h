// The rows that a pass runs over: which of the batch's rows count, their weights, how they are cut
// into blocks and lanes, and what is cached of the forward at theta.
#pragma once
#include "cpu/kernels/kernels.h"
#include "cpu/runtime/memory.h"

namespace trpo_fast::cpu {

// Buffers of one thread for one block of rows.
struct Workspace {
  Workspace(const Plan& plan);

  Array<float> obs;      // [block_rows, O]: gathered, or padded with zero rows
  Array<uint8_t> mask;   // [block_rows, Z]
  Array<float> outputs;  // z or J v; the padding stays zero
  Array<float> before;   // z at theta where it is not cached
  Array<float> factors;
  Array<float> second;  // [2, A] of a free log_std: one row's score and the block's sum
  Array<float> hidden[kMaxMaps], slope[kMaxMaps], tangent[kMaxMaps];
  Array<uint16_t> input_rows[kMaxMaps], input_columns[kMaxMaps], rows[2], columns;
  Prefetch prefetch;
  // Of a preconditioner, where there is one: weighted inputs and the deltas of two maps in turn
  // [block_rows, widest]; a piece of its product; a matrix that is inverted.
  Array<float> planes[3], products;
  Array<double> matrix;
  void reserve_factors(const Plan& plan, const FactorPlan& factors);
  int64_t bytes() const;
};

// A lane is a run of blocks whose sums one thread makes. The cut depends on shapes alone, so that
// the bits of a sum do not depend on the number of threads.
struct Lanes {
  int64_t blocks = 0, count = 0;
  int64_t begin(int64_t lane) const { return lane * blocks / count; }  // first block
};

// plan.block_rows or somewhat less: how long blocks must be for `count` rows to make even lanes.
// With 2048 rows and blocks of 96, one of two threads would wait through 6 % of every pass.
int balanced_block_rows(const Plan& plan, int64_t count);

class RowSet {
 public:
  // Rows with a positive weight; of `subset` only, where given.
  RowSet(const Plan& plan, const Rows& rows, const int64_t* subset, int64_t subset_count);

  // Whether `subset` held an index that is no row, or not above the one before; those are left out.
  bool misindexed() const { return misindexed_; }
  int64_t count() const { return count_; }
  int64_t row(int64_t i) const { return index_.size() ? index_[i] : i; }  // in the batch
  double total_weight() const { return total_; }
  double weight(int64_t i) const { return rows_.weights ? rows_.weights[row(i)] : 1.0; }
  const Lanes& lanes() const { return lanes_; }
  const Rows& rows() const { return rows_; }
  // Weights of the block's rows, normalised to a sum of one over the set; null: all `1 / count`.
  const float* scale(int64_t block) const {
    return scale_.size() ? scale_.data() + block * block_rows_ : nullptr;
  }

  // Keeps the forward at theta between passes; filled block by block by whoever runs it.
  void allocate_cache();
  bool cached() const { return cached_; }
  bool filled = false;

  // Block b: activations in the cache if there is one, otherwise in the workspace. `fresh`: all
  // buffers from the workspace, for a forward at other parameters.
  Block block(int64_t b, Workspace& work, bool fresh = false) const;
  // z of block b at theta, and the factors of the metric, in the cache or the workspace.
  float* outputs(int64_t b, Workspace& work) const;
  float* factors(int64_t b, Workspace& work) const;
  const uint8_t* mask(int64_t b, Workspace& work) const;

  int64_t bytes() const;

 private:
  void select(const int64_t* subset, int64_t subset_count);
  void set_operands(int64_t b, bool own, Workspace& work, Block* block) const;
  void set_prefetch(int64_t b, Prefetch* prefetch) const;
  const float* block_obs(int64_t b, int rows, Workspace& work) const;

  const Plan& plan_;
  Rows rows_;
  int block_rows_;
  int64_t count_ = 0;
  double total_ = 0.0;
  bool misindexed_ = false;
  Array<int64_t> index_;  // empty: row i is row i
  Array<float> scale_;
  Lanes lanes_;
  bool cached_ = false;
  mutable Array<float> hidden_[kMaxMaps], slope_[kMaxMaps], outputs_, factors_;
  mutable Array<uint16_t> input_rows_[kMaxMaps], input_columns_[kMaxMaps];
};

}  // namespace trpo_fast::cpu
