// A small problem for the CUDA core's entries, filled from a seed, in arrays as the device would
// allocate them; and the entries run on it over schedules that must not change a bit.
#pragma once
#include <memory>

#include "cases.h"
#include "cuda/api.h"
#include "cuda/resident/layout.h"

namespace emulation_cases {

using namespace trpo_fast;
using namespace trpo_fast::cuda;

struct ProblemShape {
  std::vector<int> widths;
  Activation activation;
  Head head;
  std::vector<int> nvec;
  int rows;
  int grid;  // 0: as the plan chooses
  int columns = 1;
  bool weights = false, mask = false, subset = false, atomics = false, reverse = false;
  bool old_params = false;
  int64_t group_size = 0, chunk_rows = 0;
  Precision precision = Precision::kFp32;
  int factor_stride = 0;  // of a preconditioner
  float gain_tol = 0;
};

class Problem {
 public:
  explicit Problem(const ProblemShape& shape);

  // The entry under FIFO, LIFO and one random schedule: equal bits unless atomics are asked for.
  // Returns the first run's output, empty where a launch failed (and was reported).
  std::vector<float> run(int (*CudaApi::*entry)(const ResidentCall&));

  const ProblemShape shape;
  NetShape net{};
  int64_t parameters;
  ResidentCall call{};
  std::unique_ptr<DeviceArray<float>> theta, obs, row_weights, actions, advantages, old_params, in,
      out, theta_out;
  std::unique_ptr<DeviceArray<double>> stats;

 private:
  void fill_net();
  void fill_rows();
  void fill_call();
  std::vector<float> run_once(int (*entry)(const ResidentCall&), emulation::Order order);
  float next();  // uniform in (-1, 1)
  std::unique_ptr<DeviceArray<float>> random(size_t count, float scale);

  uint32_t state_ = 1;
  std::unique_ptr<DeviceArray<uint8_t>> mask_;
  std::unique_ptr<DeviceArray<int64_t>> choices_, fvp_rows_;
  std::unique_ptr<DeviceArray<unsigned char>> scratch_;
};

}  // namespace emulation_cases
