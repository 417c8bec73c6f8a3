// The table of entries: device guard, kernel arguments from a call, and the choice of unit.
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

KernelArgs kernel_args(const ResidentCall& call, Program program) {
  KernelArgs a{};
  a.program = program;
  a.net = call.fvp.net;
  const bool split = call.plan.precision != Precision::kFp32;
  a.layout = make_layout(call.fvp.net, kRowGroups * call.plan.row_step, split);
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

cudaError_t launch_unit(const KernelArgs& args, size_t shared, cudaStream_t stream) {
  const bool solves = args.program == kProgramSolve || args.program == kProgramUpdate;
  const bool guided = solves && (args.cg.factor_stride > 0 || args.cg.gain_tol > 0);
  if (args.plan.precision != Precision::kFp32)
    return (guided ? launch_guided_split : launch_resident_split)(args, shared, stream);
  if (args.plan.slots == 1)
    return (guided ? launch_guided_narrow : launch_resident_narrow)(args, shared, stream);
  return (guided ? launch_guided_wide : launch_resident_wide)(args, shared, stream);
}

template <Program kProgram>
int run(const ResidentCall& call) {
  const DeviceGuard guard(call.device);
  if (guard.error() != cudaSuccess) return cleared(guard.error());
  const KernelArgs args = kernel_args(call, kProgram);
  const size_t shared = block_bytes(args.layout, args.plan);
  const auto stream = static_cast<cudaStream_t>(call.stream);
  return cleared(launch_unit(args, shared, stream));
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
