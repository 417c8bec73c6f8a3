// Host entries of the kernels that collecting and estimating call.
#pragma once
#include "cuda/api.h"
#include "cuda/dev.h"

namespace trpo_fast {

cudaError_t launch_act(const ActCall& call);
cudaError_t launch_gae(const GaeCall& call, int multiprocessors);

}  // namespace trpo_fast
