// Host entries of the kernels beside the update's: acting, advantages, the critic's fit.
#pragma once
#include "cuda/learner/calls.h"
#include "cuda/prims/dev.h"

namespace trpo_fast::cuda {

cudaError_t launch_act(const ActCall& call);
cudaError_t launch_gae(const GaeCall& call, int multiprocessors);
cudaError_t launch_critic_adam(const CriticCall& call);
cudaError_t launch_critic_gradient(const CriticCall& call);
cudaError_t launch_critic_search(const CriticCall& call);

}  // namespace trpo_fast::cuda
