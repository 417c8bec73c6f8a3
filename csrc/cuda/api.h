// The CUDA core as the binding sees it: one table of C functions over plain structs. The same table
// comes out of the nvcc build and of the emulation library, so either serves the same Python.
//
// Every function enqueues one launch on `stream` and returns without waiting: 0, or the CUDA error,
// whose sentence `error_string` gives. Pointers are the device's; nothing is allocated.
#pragma once
#include "cuda/learner/calls.h"
#include "cuda/resident/call.h"

namespace trpo_fast::cuda {

struct CudaApi {
  int (*device_limits)(int device, DeviceLimits* limits);
  int (*room)(int device, const NetShape& net, const Plan& plan, int* blocks);  // at once
  const char* (*error_string)(int error);
  int (*fvp)(const ResidentCall&);       // v [K, P]; out: F v + damping v [K, P]
  int (*solve)(const ResidentCall&);     // v: g [K, P]; out: x [K, P]; stats [K, 4]: quad,
                                         // residual norm, iterations, first curvature
  int (*gradient)(const ResidentCall&);  // out: g [P]; stats [5] as evaluate's
  int (*evaluate)(const ResidentCall&);  // v: parameters [P]; stats [5]: KL, largest KL of a
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
