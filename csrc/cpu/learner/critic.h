// The critic's fit on one batch: loss(theta) = sum_n w_n (v(s_n) - t_n)^2 / (2 sum_n w_n) with one
// output v, its gradient, and Adam over minibatches of shuffled rows in one loop.
//
// Parameters stay packed (plan.h) for the whole loop. A minibatch is cut into blocks and lanes by its
// size alone, so equal inputs give equal bits whatever the number of threads.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "cpu/operator/layout.h"
#include "cpu/operator/rows.h"
#include "cpu/runtime/threads.h"

namespace trpo_fast::cpu {

struct CriticBatch {
  int64_t count;         // N
  const float* obs;      // [N, O]
  const float* targets;  // [N]
  const float* weights;  // [N] > 0, or null for all ones
};

struct AdamParams {
  const int64_t* order;  // [epochs, N] row indices, a permutation per epoch
  int epochs;
  int64_t minibatch;
  int64_t steps;  // taken before
  float learning_rate, beta1, beta2, eps;
};

class CriticFit {
 public:
  CriticFit(const NetShape& net, const CriticBatch& batch, const CpuKernels& kernels);

  // The loss at theta [P], and its gradient [P] unless that is null.
  double loss(const float* theta, float* gradient, int threads);

  // Moves theta and Adam's moments, all [P] and all left alone if the loss stops being finite or
  // `interrupt` (asked before every epoch) throws. Returns the mean loss over the last epoch.
  double adam(const AdamParams& params, float* theta, float* first, float* second, int threads,
              const std::function<void()>& interrupt);

 private:
  // Floats [begin, begin + count) of a packed vector. If map >= 0 they are inputs
  // [input, input + inputs) of the panel of outputs that starts at `output`, and are in `back` too.
  struct Slice {
    int64_t begin, count;
    int map, output, input, inputs;
  };
  struct Minibatch {
    const int64_t* rows;  // null: rows 0 .. count - 1
    int64_t count;
    double weight;
  };

  void cut_parameters();
  void prepare(const float* theta, int64_t largest, int threads);
  int useful_threads(int64_t rows, int threads) const;
  double weight_of(const int64_t* rows, int64_t count) const;
  int64_t block_rows(int64_t count) const;
  int64_t blocks_in(int64_t count) const;
  int lanes_in(int64_t count) const;
  Block gather(const Minibatch& rows, int64_t first, int count, Workspace& work) const;
  double differences(const Minibatch& rows, int64_t first, const Block& block) const;
  double run_lanes(Team& team, const Minibatch& rows, bool gradient);
  void adam_step(Team& team, const AdamStep& step, int lanes, float* first, float* second);
  void copy_back(const Slice& slice);

  const CpuKernels& kernels_;
  Plan plan_;
  CriticBatch batch_;
  std::vector<Slice> slices_;
  Array<float> theta_, back_, lane_sums_;
  std::vector<std::unique_ptr<Workspace>> work_;
};

}  // namespace trpo_fast::cpu
