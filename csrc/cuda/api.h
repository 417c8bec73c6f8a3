// The CUDA core as the binding sees it: one table of C functions over plain structs. The same table
// comes out of the nvcc build and of the emulation library, so either serves the same Python.
//
// Every function enqueues one launch on `stream` and returns without waiting: 0, or the CUDA error,
// whose sentence `error_string` gives. Pointers are the device's; nothing is allocated.
#pragma once
#include "cuda/config.h"

namespace trpo_fast {

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
};

}  // namespace trpo_fast

// Visible in the emulation library, which is opened by its path; the extension keeps it to itself.
#ifndef __CUDACC__
#define TRPO_FAST_API_VISIBLE __attribute__((visibility("default")))
#else
#define TRPO_FAST_API_VISIBLE
#endif
extern "C" TRPO_FAST_API_VISIBLE const trpo_fast::CudaApi* trpo_fast_cuda_api();
