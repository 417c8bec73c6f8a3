// The critic's fit, once for each form of its net: narrow (64-64) with few or many rows between two
// barriers, wide, and too wide for a block's shared memory.
#include "cuda/learner/critic.cuh"
#include "cuda/learner/rollout.h"

namespace trpo_fast::cuda {
namespace {

template <class V>
cudaError_t launch_as(const CriticArgs& args) {
  Carve carve;
  carve_critic<V::kStreamed>(carve, args.stage.layout);
  return launch(critic_kernel<V>, dim3(args.call.plan.grid), dim3(kThreads), carve.bytes, true,
                static_cast<cudaStream_t>(args.call.stream), args);
}

cudaError_t launch_program(const CriticCall& call, CriticProgram program) {
  const CriticPlan& plan = call.plan;
  CriticArgs args{};
  args.program = program;
  args.call = call;
  args.stage.net = critic_shape(call.net);
  args.stage.layout = make_layout(args.stage.net, kRowGroups * plan.row_step);
  args.stage.rows.count = call.count;
  args.stage.rows.obs = call.obs;
  args.stage.rows.weights = call.weights;
  if (plan.path == Path::kStreamed) return launch_as<Variation<1, 3, true>>(args);
  if (plan.slots == 3) return launch_as<Variation<1, 3, false>>(args);
  if (plan.row_step == 4) return launch_as<Variation<4, 1, false>>(args);
  return launch_as<Variation<1, 1, false>>(args);
}

}  // namespace

cudaError_t launch_critic_adam(const CriticCall& call) { return launch_program(call, kCriticAdam); }
cudaError_t launch_critic_gradient(const CriticCall& call) {
  return launch_program(call, kCriticGradient);
}
cudaError_t launch_critic_search(const CriticCall& call) {
  return launch_program(call, kCriticSearch);
}

}  // namespace trpo_fast::cuda
