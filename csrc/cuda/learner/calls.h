// What one launch of the learner's kernels is asked for: acting, advantages, a critic's fit.
#pragma once
#include "cuda/learner/act.h"
#include "cuda/learner/critic.h"

namespace trpo_fast::cuda {

// theta null: values alone.
struct ActCall : ActRows {
  int device;
  void* stream;
  ActPlan plan;  // of make_act_plan for these nets, this count and this device
  NetShape policy, critic;
  const float* theta;         // [P]
  const float* critic_theta;  // [P]
};

// Advantages of T steps of E environments; everything [T, E].
struct GaeCall {
  int device;
  void* stream;
  int64_t steps, envs;
  const float* rewards;
  const float* values;
  const float* following;  // V' of what came after a step, zero after a termination
  const uint8_t* done;     // 1 where an episode ended
  float gamma, decay;      // decay: gamma lambda
  float* advantages;
};

struct CriticAdam {
  const int64_t* order;  // [epochs, N] row indices, a permutation per epoch
  int epochs;
  int64_t minibatch;
  float learning_rate, beta1, beta2, eps;
  int64_t* taken;         // steps of Adam before this fit; those of the fit are added
  float *first, *second;  // [P] moments
};

// What a fit leaves on the device: the loss, steps of Gauss-Newton that lowered it, and whether a
// search has found none.
enum CriticState : int { kCriticLoss, kCriticAccepted, kCriticStopped, kCriticStates };

// A critic at theta on its rows. All that a launch moves is left alone if it would not be finite.
struct CriticCall {
  int device;
  void* stream;
  CriticPlan plan;   // of make_critic_plan for this net, its rows and this device
  NetShape net;      // Gaussian with one output: theta is its maps', then a deviation nothing moves
  int64_t count;     // N
  const float* obs;  // [N, O]
  const float* targets;  // [N]
  const float* weights;  // [N] > 0, or null for all ones
  float* theta;          // [P]
  double* state;         // [kCriticStates]
  void* scratch;         // plan.scratch.total bytes, 256-byte aligned, any contents
  CriticAdam adam;
  float* gradient;         // [P], what critic_gradient writes
  const float* direction;  // [P], what critic_search steps against: theta - direction / 2^j
  int backtracks;          // of j
};

}  // namespace trpo_fast::cuda
