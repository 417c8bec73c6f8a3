// The table of entries: device guard, kernel arguments from a call, and the choice of unit.
#include <algorithm>
#include <climits>

#include "cuda/api.h"
#include "cuda/learner/rollout.h"
#include "cuda/resident/resident.h"

namespace trpo_fast::cuda {
namespace {

// An error of ours must not surface in a later, unrelated call.
int cleared(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

// Makes a device current for one call and puts the caller's back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && before_ != device) {
      error_ = cudaSetDevice(device);
      changed_ = error_ == cudaSuccess;
    }
  }
  ~DeviceGuard() {
    if (changed_) cleared(cudaSetDevice(before_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

Layout plan_layout(const NetShape& net, const Plan& plan) {
  return make_layout(net, kRowGroups * plan.row_step, plan.precision != Precision::kFp32);
}

ResidentKernel kernel_of(const Plan& plan, bool guided) {
  if (plan.precision != Precision::kFp32) {
    if (guided) return guided_split_kernel();
    return plan.slots == 1 ? split_narrow_kernel() : split_wide_kernel();
  }
  if (plan.slots == 1) return guided ? guided_narrow_kernel(plan) : narrow_kernel(plan);
  return guided ? guided_wide_kernel(plan) : wide_kernel(plan);
}

KernelArgs kernel_args(const ResidentCall& call, Program program) {
  KernelArgs a{};
  a.program = program;
  a.net = call.fvp.net;
  a.layout = plan_layout(call.fvp.net, call.plan);
  a.plan = call.plan;
  a.rows = call.fvp.rows;
  a.fvp_rows = call.fvp.fvp_rows;
  a.fvp_count = call.fvp.fvp_rows ? call.fvp.fvp_count : call.fvp.rows.count;
  a.damping = call.fvp.damping;
  a.kl_scale = call.fvp.kl_scale;
  a.cg = call.cg;
  a.search = call.search;
  a.learning_rate = call.learning_rate;
  a.atomics = call.atomics && (program == kProgramSolve || program == kProgramUpdate);
  a.columns = program == kProgramFvp || program == kProgramSolve ? call.columns : 1;
  if (program == kProgramEvaluate) a.search.search = false;
  a.theta = call.fvp.theta;
  a.theta_out = call.theta_out;
  a.v = call.v;
  a.out = call.out;
  a.stats = call.stats;
  a.scratch = static_cast<unsigned char*>(call.scratch);
  const bool solves = program == kProgramSolve || program == kProgramUpdate;
  a.factors = make_factor_layout(a.layout, call.fvp, solves ? call.cg.factor_stride : 0, call.plan);
  return a;
}

// Whether a call takes the kernels with a preconditioner and the stop by gain.
bool is_guided(const KernelArgs& args) {
  const bool solves = args.program == kProgramSolve || args.program == kProgramUpdate;
  return solves && (args.cg.factor_stride > 0 || args.cg.gain_tol > 0);
}

template <Program kProgram>
int run(const ResidentCall& call) {
  const DeviceGuard guard(call.device);
  if (guard.error() != cudaSuccess) return cleared(guard.error());
  const KernelArgs args = kernel_args(call, kProgram);
  return cleared(launch(kernel_of(call.plan, is_guided(args)), dim3(call.plan.grid), dim3(kThreads),
                        block_bytes(args.layout, args.plan), true,
                        static_cast<cudaStream_t>(call.stream), args));
}

// A cooperative launch fails where its blocks are not all resident at once.
int room(int device, const NetShape& net, const Plan& plan, int* blocks) {
  const DeviceGuard guard(device);
  cudaError_t error = guard.error();
  const size_t shared = block_bytes(plan_layout(net, plan), plan);
  int multiprocessors = 0, fewest = INT_MAX;
  for (const bool guided : {false, true}) {
    const ResidentKernel kernel = kernel_of(plan, guided);
    if (error == cudaSuccess) error = allow_shared(reinterpret_cast<const void*>(kernel));
    if (error == cudaSuccess)
      error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, kThreads, shared);
    if (error == cudaSuccess) fewest = std::min(fewest, *blocks);
  }
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  *blocks = error == cudaSuccess ? fewest * multiprocessors : 0;
  return cleared(error);
}

// One of rollout.h's launchers as an entry of the table.
template <auto kLaunch, class Call>
int guarded(const Call& call) {
  const DeviceGuard guard(call.device);
  return cleared(guard.error() != cudaSuccess ? guard.error() : kLaunch(call));
}

int gae(const GaeCall& call) {
  const DeviceGuard guard(call.device);
  if (guard.error() != cudaSuccess) return cleared(guard.error());
  int multiprocessors = 0;
  const cudaError_t error =
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, call.device);
  return cleared(error != cudaSuccess ? error : launch_gae(call, multiprocessors));
}

int device_limits(int device, DeviceLimits* limits) {
  int major = 0, minor = 0;
  const auto ask = [device](int* value, cudaDeviceAttr which) {
    return cudaDeviceGetAttribute(value, which, device);
  };
  cudaError_t error = ask(&limits->multiprocessors, cudaDevAttrMultiProcessorCount);
  if (!error) error = ask(&limits->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (!error) error = ask(&major, cudaDevAttrComputeCapabilityMajor);
  if (!error) error = ask(&minor, cudaDevAttrComputeCapabilityMinor);
  limits->arch = 10 * major + minor;
  return cleared(error);
}

const char* error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace
}  // namespace trpo_fast::cuda

extern "C" const trpo_fast::cuda::CudaApi* trpo_fast_cuda_api() {
  using namespace trpo_fast::cuda;
  static const CudaApi api = {device_limits,
                              room,
                              error_string,
                              run<kProgramFvp>,
                              run<kProgramSolve>,
                              run<kProgramGradient>,
                              run<kProgramEvaluate>,
                              run<kProgramUpdate>,
                              guarded<launch_act, ActCall>,
                              gae,
                              guarded<launch_critic_adam, CriticCall>,
                              guarded<launch_critic_gradient, CriticCall>,
                              guarded<launch_critic_search, CriticCall>};
  return &api;
}
