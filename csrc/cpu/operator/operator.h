// The CPU core at one theta: the stages, the fused product, CG, and the update.
//
// Every public method runs one parallel region (threads.h), on any thread, but calls on one operator must
// not overlap: whoever shares one sees to that. Scratch is allocated in the constructor and at the
// first use of a method, never inside an iteration.
//
// Vectors of the public methods are flat [P]; inside, everything is packed (plan.h).
//
// Denormals are honoured, as in PyTorch; `solve` scales g by a power of two, which is exact, so that
// its vectors stay clear of them and of overflow.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/operator/cg.h"
#include "cpu/operator/factors.h"
#include "cpu/operator/layout.h"
#include "cpu/operator/rows.h"
#include "cpu/runtime/threads.h"

namespace trpo_fast::cpu {

// Returns true to stop: asked between iterations, on the calling thread.
struct Interrupt {
  bool (*wanted)(void* context) = nullptr;
  void* context = nullptr;
  bool operator()() const { return wanted && wanted(context); }
};

// How one call runs.
struct CallOptions {
  int threads = 1;
  Interrupt interrupt;
};

struct Interrupted {};  // thrown when an interrupt was wanted; nothing has been written

struct Solved {
  double quad = 0.0, residual_norm = 0.0, first_curvature = 1.0, linear_gain = 0.0;
  int64_t iterations = 0, restarts = 0;
};

struct Measures {
  double kl = 0.0, max_kl = 0.0, surrogate = 0.0, entropy = 0.0;
};

struct UpdateParams {
  CgParams cg;
  SearchParams search;
  double learning_rate = 0.0;  // of x itself; 0: the KL-normalised step
};

class CpuOperator {
 public:
  // Pointers in `params` must outlive the operator; theta is copied.
  CpuOperator(const FvpParams& params, bool reverse_kl, const CpuKernels& kernels);

  const Plan& plan() const { return plan_; }
  int64_t scratch_bytes() const;

  // ---- stages, for all rows of the batch; D columns as trpo_fast/policy/heads has them
  // (rows without weight are skipped: zero)
  void forward(float* params, const CallOptions& call);                    // [N, D]
  void jvp(const float* v, float* tangent, const CallOptions& call);       // [P] -> [N, D]
  void metric(const float* tangent, float* out, const CallOptions& call);  // [N, D] -> [N, D]
  void vjp(const float* delta, float* out,
           const CallOptions& call);  // [N, D] -> [P], summed over rows
  // Of a preconditioner from one of `stride` rows: every map's A and G, and z = M^-1 r.
  void factors(int stride, float* out, const CallOptions& call);  // [sum of (in + 1)^2 + out^2]
  void precondition(int stride, const float* r, float* z, const CallOptions& call);  // [P] -> [P]

  // ---- fused
  void fvp(const float* v, int64_t columns, float* out,
           const CallOptions& call);  // [K, P] -> [K, P]
  void solve(const float* g, int64_t columns, const CgParams& cg, float* x, Solved* solved,
             const CallOptions& call);
  Measures gradient(float* g, const CallOptions& call);  // [P], and the evaluation at theta
  Measures evaluate(const float* theta, const CallOptions& call);  // [P]
  bool bad_values(const CallOptions& call);
  // Writes theta in place if the step is accepted. stats [kStatCount].
  void update(const UpdateParams& params, float* theta, double* stats, const CallOptions& call);

 private:
  RowSet& fisher_rows() { return fisher_ ? *fisher_ : batch_; }
  // Rows that products were given, those of weight zero included.
  int64_t fisher_count() const { return params_.fvp_rows ? params_.fvp_count : params_.rows.count; }
  float* packed_vector(int which, int64_t column, int64_t columns) {
    return vectors_.data() + (which * columns + column) * plan_.size;
  }

  // Runs body(team) with scratch for every thread that may claim lanes.
  template <class Body>
  void region(const CallOptions& call, const Body& body) {
    interrupt_ = call.interrupt;
    const int useful = static_cast<int>(std::min<int64_t>(call.threads, batch_.lanes().count));
    const int count = std::max(1, useful);
    while (static_cast<int>(work_.size()) < count) {
      work_.push_back(std::make_unique<Workspace>(plan_));
    }
    run_team(count, body);
  }

  // f(lane, b, workspace, first) for every block b; `first` on the first block of a lane.
  template <class PerBlock>
  void for_blocks(Team& team, const RowSet& rows, const PerBlock& f) {
    const Lanes& lanes = rows.lanes();
    team.lanes(lanes.count, [&](int64_t lane, int worker) {
      const int64_t begin = lanes.begin(lane), end = lanes.begin(lane + 1);
      for (int64_t b = begin; b < end; ++b) {
        f(lane, b, *work_[static_cast<size_t>(worker)], b == begin);
      }
    });
  }

  // fvp.cpp
  Weights theta() const {
    return {theta_.data(), back_.data(), theta_split_.data(), back_split_.data()};
  }
  Weights split_v(Team& team, const float* v, const int* columns, int count);
  void linearize(RowSet& rows, int64_t b, Workspace& work, const Block& block);
  void prepare(Team& team, RowSet& rows);
  void product(Team& team, const float* v, float* out, const int* columns, int count);
  void sum_of_lanes(Team& team, int64_t lanes, int64_t stride, int64_t size, const float* part,
                    float* out);
  double dot(Team& team, const float* a, const float* b);
  bool chunked() const { return params_.chunk_rows > 0; }

  // factors.cpp
  void make_factors(Team& team, int stride);
  void root_block(const RowSet& rows, int64_t b, Workspace& work, const Block& block);
  void sum_factors(Team& team, RowSet& rows);
  void invert_factors(Team& team);
  void precondition(Team& team, const float* r, float* z, const int* columns, int count);

  // cg.cpp
  void begin_column(Team& team, const float* g, int c, int columns, CgColumn* column);
  void begin_preconditioned(Team& team, int columns, CgColumn* column, Solved* solved);
  bool step_column(Team& team, int c, int columns, const CgParams& cg, CgColumn* column,
                   Solved* solved);
  void next_directions(Team& team, const float* g, const int* list, int count, int columns,
                       CgColumn* column, Solved* solved);
  void conjugate_gradient(Team& team, int columns, const CgParams& cg, const float* g,
                          Solved* solved);

  // surrogate.cpp
  void reserve_surrogate();
  Measures evaluate_theta(Team& team) { return evaluate_weights(team, theta()); }
  Measures evaluate_candidate(Team& team);
  Measures evaluate_weights(Team& team, const Weights& weights);
  void gradient_packed(Team& team, float* g);
  void score_block(int64_t b, const Block& block, Workspace& work);
  void measure_block(int64_t b, const Block& now, const Block& old, const float* packed,
                     double* sums) const;
  float log_prob_before(int64_t i, int64_t n) const;
  void log_ratios(const RowSet& rows, int64_t b, const Block& block, const float* packed);
  Measures total_of_measures() const;
  double surrogate();
  double grouped_surrogate();

  // update.cpp
  bool bad_rows(Team& team);
  Reason direction(Team& team, const CgParams& cg, const float* g, Solved* solved);
  Reason first_trial(const UpdateParams& params, const Measures& before, double quad,
                     double* scale) const;
  Reason line_search(Team& team, const UpdateParams& params, double scale, const Measures& before,
                     Measures* after, int* backtracks);

  const CpuKernels& kernels_;
  Plan plan_;
  FvpParams params_;
  bool reverse_kl_;
  Array<float> theta_, back_;  // theta, packed; its weights packed for the delta chain
  // The same, v and candidate_ as operands, in split precision only.
  Array<uint16_t> theta_split_, back_split_, v_split_, candidate_split_;
  RowSet batch_;
  std::unique_ptr<RowSet> fisher_;    // only where fvp_rows picks a subset
  std::unique_ptr<Factors> factors_;  // only where a solve was preconditioned
  std::vector<std::unique_ptr<Workspace>> work_;
  Array<float> lane_sums_;  // [lanes][columns][plan.size]
  Array<float> vectors_;    // x, r, p, Ap of CG, [4][columns][plan.size]
  Array<float> candidate_;  // parameters that evaluate looks at, packed
  Array<float> log_ratio_;  // [rows] log pi(a) - log pi_old(a)
  Array<float> slope_;      // [rows] dS / d log pi(a)
  Array<float> log_old_;    // [rows] log pi_old(a) where the batch does not bring it
  bool has_old_ = false;
  Array<double> partial_;  // sums of the lanes, or of pieces of a vector
  Interrupt interrupt_;    // of the call that runs
};

}  // namespace trpo_fast::cpu
