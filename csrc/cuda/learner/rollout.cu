// act and gae: what a rollout asks of the device besides the environments.
#include "cuda/learner/act.cuh"
#include "cuda/learner/gae.cuh"
#include "cuda/learner/rollout.h"

namespace trpo_fast::cuda {

cudaError_t launch_act(const ActCall& call) {
  const ActPlan& plan = call.plan;
  ActArgs args{};
  args.call = call;
  const NetShape* shapes[kActSides] = {&call.policy, &call.critic};
  const float* thetas[kActSides] = {call.theta, call.critic_theta};
  args.first_side = call.theta ? kActPolicy : kActCritic;
  size_t shared = 0;
  int sides = 0;
  for (int side = 0; side < kActSides; ++side) {
    if (!thetas[side]) continue;
    const Layout layout = make_layout(*shapes[side], kRowGroups * plan.row_step);
    args.net[side] = {layout, thetas[side], plan.weights[side], plan.resident[side],
                      widest_stride(layout)};
    Carve carve;
    carve_act(carve, args.net[side]);
    shared = carve.bytes > shared ? carve.bytes : shared;
    ++sides;
  }
  const auto kernel = plan.row_step == 4 ? act_kernel<4> : act_kernel<1>;
  return launch(kernel, dim3(plan.blocks, sides), dim3(kThreads), shared, false,
                static_cast<cudaStream_t>(call.stream), args);
}

cudaError_t launch_gae(const GaeCall& call, int multiprocessors) {
  GaeArgs args = {call, 32};
  // A sector holds eight environments: fewer side by side only where there are fewer.
  while (args.lanes > 8 && call.envs < int64_t{args.lanes} * multiprocessors) args.lanes /= 2;
  while (args.lanes > 1 && call.envs <= args.lanes / 2) args.lanes /= 2;
  const int64_t blocks = (call.envs + args.lanes - 1) / args.lanes;
  Carve carve;
  carve.take<Affine>(kGaeThreads);
  return launch(gae_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kGaeThreads), carve.bytes,
                false, static_cast<cudaStream_t>(call.stream), args);
}

}  // namespace trpo_fast::cuda
