// The vocabulary of the kernels: shape legend and plain structs, passed by value from the binding
// to either core. Knows neither torch nor the STL, so g++, nvcc and the host emulation compile it.
//
//   N rows   P parameters   L linear maps   H hidden width   O observations
//   Z outputs of the last map   D distribution parameters (2A for Gaussians and Beta, Z otherwise)
//   A action columns   K right-hand sides
//
// Parameters are one flat vector: W1 [H1, O], b1 [H1], ..., WL [Z, H], bL [Z], then log_std [A] for
// kGaussian.
#pragma once
#include <cstdint>

namespace trpo_fast {

constexpr int kMaxMaps = 8;      // linear maps: at most seven hidden layers
constexpr int kMaxFactors = 64;  // factors of a MultiCategorical

// The orders below are those of trpo_fast.policy.ACTIVATIONS and trpo_fast.policy.heads.KINDS.
enum class Activation : int { kTanh = 0, kRelu, kElu, kSilu, kGelu, kIdentity };
enum class Head : int {
  kGaussian = 0,      // diagonal, one free log_std per action; also SquashedGaussian's base
  kGaussianState,     // mean and log_std are both outputs of the net: Z = 2A, means first
  kCategorical,       // Z logits, one choice
  kMultiCategorical,  // sum(nvec) logits, one choice per factor
  kBernoulli,         // Z independent logits
  kBeta,              // alpha and beta of actions in (0, 1) from both halves of z: Z = 2A
  kNone,              // outputs that are no distribution's, as a critic's; not among KINDS
};

struct NetShape {
  int maps;                 // L
  int width[kMaxMaps + 1];  // width[0] = O, width[L] = Z
  Activation activation;
  Head head;
  int factors;            // kCategorical: 1; kMultiCategorical: number of factors; otherwise 0
  int nvec[kMaxFactors];  // choices per factor
};

// One batch of rows. Pointers are device pointers for the CUDA core; nullable where it says so.
struct Rows {
  int64_t count;            // N
  const float* obs;         // [N, O]
  const float* weights;     // [N] >= 0, or null for all ones; weight zero: never read further
  const uint8_t* mask;      // [N, Z], 1 = allowed, or null
  const float* actions;     // [N, A], null for the categorical heads
  const int64_t* choices;   // [N, factors] for the categorical heads, otherwise null
  const float* advantages;  // [N]
  const float* log_probs;   // [N] of the actions when chosen, or null: under old_params
  int64_t group_size;       // vine: rows per self-normalised group, 0 for a plain mean
  const float* old_params;  // [N, D] the rows were sampled with, or null: those under theta
};

// The Fisher-vector product F v = sum_n w_n J' M J v / sum_n w_n * kl_scale + damping * v.
struct FvpParams {
  NetShape net;
  const float* theta;       // [P]
  Rows rows;                // obs, weights and mask are read
  const int64_t* fvp_rows;  // [fvp_count] strictly increasing row indices, or null for every row
  int64_t fvp_count;
  int64_t chunk_rows;  // 0: cache activations; otherwise recompute the forward chunk by chunk
  float damping;
  float kl_scale;  // 1 for kl_reduction="sum"; 1 / (number of action dimensions) for "mean"
};

struct CgParams {
  int iterations;
  float tol;          // relative: stop when |r| <= max(tol, 4 eps) |g|
  float gain_tol;     // stop after two products that each bring at most this share of x'Ax; 0: off
  int factor_stride;  // K-FAC's factors from one of so many rows; 0: plain CG
};

struct SearchParams {
  float max_kl;
  float backtrack_ratio;
  int backtrack_steps;
  bool reverse_kl;  // search on KL(new || old) instead of KL(old || new)
  bool search;      // false: natural policy gradient, the one step is taken if it is finite
  bool limit_max;   // max_kl limits the largest KL of a state, otherwise the mean KL
};

// Acting for E environments: what both cores read and write. Policy and critic see one width of
// observations; the critic has one output v, the value is value_shift + value_scale v.
struct ActRows {
  const float* value_shift;  // [1] or null for 0
  const float* value_scale;  // [1] or null for 1
  int64_t count;             // E
  const float* obs;          // [E, O]
  const float* shift;        // [O] or null: the nets see clip((obs - shift) * scale)
  const float* scale;        // [O]
  float clip;
  float* seen;          // [E, O] or null: what the nets saw
  const uint8_t* mask;  // [E, Z] or null
  const float* noise;   // [E, A] normal for the Gaussians, [E, Z] uniform otherwise
  float* actions;       // [E, A] for the Gaussians and Bernoulli
  int64_t* choices;     // [E, factors] for the categorical heads
  float* log_probs;     // [E]
  float* values;        // [E]
};

// What an update reports, as doubles in one array (trpo_fast.update.STATS has the same order).
enum Stat : int {
  kStatReason = 0,
  kStatKl,
  kStatMaxKl,
  kStatSurrogateBefore,
  kStatSurrogateAfter,
  kStatEntropy,
  kStatStepSize,  // factor on x that was applied
  kStatBacktracks,
  kStatQuad,      // x'Ax
  kStatResidual,  // |g - Ax|
  kStatIterations,
  kStatGradientNorm,
  kStatLinearGain,    // g'x
  kStatFactorRows,    // rows that K-FAC's factors were made from
  kStatScaledBlocks,  // tensors without factors: none in these nets
  kStatRestarts,      // 1 where the preconditioner failed and plain CG began anew
  kStatCount,
};

// What a solve reports of every right-hand side, as doubles (trpo_fast.backends.native has the same
// order).
enum SolveStat : int {
  kSolvedQuad = 0,
  kSolvedResidual,
  kSolvedIterations,
  kSolvedFirstCurvature,
  kSolvedLinearGain,
  kSolvedRestarts,
  kSolvedCount,
};

enum Reason : int {
  kAccepted = 0,
  kZeroGradient,
  kNonFinite,
  kBadValues,
  kNegativeCurvature,
  kLineSearchFailed,
  kAtKlLimit,
};

}  // namespace trpo_fast
