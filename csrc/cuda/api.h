// The CUDA core as the binding sees it: one table of C functions over plain structs. The same table
// comes out of the nvcc build and of the emulation library, so either serves the same Python.
//
// Every function enqueues one launch on `stream` and returns without waiting: 0, or the CUDA error,
// whose sentence `error_string` gives. Pointers are the device's; nothing is allocated.
#pragma once
#include "cuda/learner/act.h"
#include "cuda/resident/config.h"
#include "cuda/learner/critic.h"

namespace trpo_fast::cuda {

struct ResidentCall {
  int device;
  void* stream;
  Plan plan;      // of make_plan for these shapes and this device
  FvpParams fvp;  // net, theta, rows, fvp_rows, damping, kl_scale
  int columns;    // right-hand sides K
  const float* in;
  float* out;
  double* stats;
  void* scratch;  // plan.scratch.total bytes, 256-byte aligned, any contents
  CgParams cg;
  bool atomics;  // fast mode of the solve: one grid barrier per product, bits may differ
  SearchParams search;
  float learning_rate;  // npg with a fixed rate; not positive: the KL-normalised step
  float* theta_out;     // [P], may be fvp.theta: written only on acceptance
};

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

struct CudaApi {
  int (*device_limits)(int device, DeviceLimits* limits);
  const char* (*error_string)(int error);
  int (*fvp)(const ResidentCall&);       // in: v [K, P]; out: F v + damping v [K, P]
  int (*solve)(const ResidentCall&);     // in: g [K, P]; out: x [K, P]; stats [K, 4]: quad,
                                         // residual norm, iterations, first curvature
  int (*gradient)(const ResidentCall&);  // out: g [P]; stats [5] as evaluate's
  int (*evaluate)(const ResidentCall&);  // in: parameters [P]; stats [5]: KL, largest KL of a
                                         // state, surrogate, entropy, whether a value was bad
  int (*update)(const ResidentCall&);    // theta_out; stats [kStatCount]
  int (*act)(const ActCall&);
  int (*gae)(const GaeCall&);
  int (*critic_adam)(const CriticCall&);      // theta, moments, steps, the last epoch's mean loss
  int (*critic_gradient)(const CriticCall&);  // gradient and loss on every row
  int (*critic_search)(const CriticCall&);    // theta and state
};

}  // namespace trpo_fast::cuda

// Visible in the emulation library, which is opened by its path; the extension keeps it to itself.
#ifndef __CUDACC__
#define TRPO_FAST_API_VISIBLE __attribute__((visibility("default")))
#else
#define TRPO_FAST_API_VISIBLE
#endif
extern "C" TRPO_FAST_API_VISIBLE const trpo_fast::cuda::CudaApi* trpo_fast_cuda_api();
