// Advantages of a rollout: delta_t = r_t + gamma V'_t - V_t,  A_t = delta_t + c_t A_{t+1} with
// c_t = gamma lambda, 0 where an episode ended. Reads [T, E] arrays, writes A.
//
// A step is the affine map y -> delta + c y, and maps compose associatively. A block serves `lanes`
// environments side by side; its 256 / lanes segments of kGaeSteps steps each are composed from the
// last to the first by doubling, so a round covers many steps at once. Rounds go from the end of the
// rollout to its beginning. The order depends on T, E and the lanes alone.
#pragma once
#include "cuda/learner/calls.h"
#include "cuda/prims/reduce.cuh"

namespace trpo_fast::cuda {

constexpr int kGaeThreads = 256;
constexpr int kGaeSteps = 4;  // a thread composes in registers

struct GaeArgs {
  GaeCall call;
  int lanes;  // power of two
};

namespace {

struct alignas(8) Affine {  // y -> offset + factor y
  float offset, factor;
  __device__ __forceinline__ float operator()(float y) const { return fmaf(factor, y, offset); }
  // This map after `other`.
  __device__ __forceinline__ Affine after(const Affine& other) const {
    return {(*this)(other.offset), factor * other.factor};
  }
};

// The map of step t of environment e; constant zero before the rollout and past the last environment.
__device__ __forceinline__ Affine gae_step(const GaeCall& c, int64_t t, int64_t e) {
  if (t < 0 || e >= c.envs) return {0.0f, 0.0f};
  const int64_t i = t * c.envs + e;
  const float delta = fmaf(c.gamma, c.following[i], c.rewards[i]) - c.values[i];
  return {delta, c.done[i] ? 0.0f : c.decay};
}

// maps[s] <- maps[s] after maps[s + 1] after ... of one lane, `own` being this thread's. Opens and
// closes with a barrier.
__device__ __forceinline__ void block_suffix_scan(Affine* maps, Affine own, int segment,
                                                  int segments, int lanes) {
  Affine* mine = maps + threadIdx.x;
  __syncthreads();  // the last round's maps have been read
  *mine = own;
  for (int offset = 1; offset < segments; offset *= 2) {
    __syncthreads();  // the maps of this span are written
    const bool more = segment + offset < segments;
    if (more) own = own.after(mine[offset * lanes]);
    __syncthreads();  // and have been read
    if (more) *mine = own;
  }
  __syncthreads();  // the scan is complete
}

__global__ void __launch_bounds__(kGaeThreads) gae_kernel(const __grid_constant__ GaeArgs a) {
  DYN_SMEM(shared);
  Carve carve(shared);
  Affine* maps = carve.take<Affine>(kGaeThreads);
  const GaeCall& c = a.call;
  const int lanes = a.lanes, segments = kGaeThreads / lanes;
  const int lane = threadIdx.x % lanes, segment = threadIdx.x / lanes;
  const int64_t e = int64_t{blockIdx.x} * lanes + lane;
  float carried = 0.0f;  // A of the step after this round's last

  for (int64_t end = c.steps; end > 0; end -= int64_t{segments} * kGaeSteps) {
    const int64_t begin = end - int64_t{segments - segment} * kGaeSteps;
    // ---- the segment's own map
    Affine step[kGaeSteps], own = {0.0f, 1.0f};
#pragma unroll
    for (int k = 0; k < kGaeSteps; ++k) step[k] = gae_step(c, begin + k, e);
#pragma unroll
    for (int k = kGaeSteps - 1; k >= 0; --k) own = step[k].after(own);
    // ---- what follows it, and the steps themselves
    block_suffix_scan(maps, own, segment, segments, lanes);
    float y = segment + 1 < segments ? maps[threadIdx.x + lanes](carried) : carried;
    carried = maps[lane](carried);
#pragma unroll
    for (int k = kGaeSteps - 1; k >= 0; --k) {
      y = step[k](y);
      if (begin + k >= 0 && e < c.envs) c.advantages[(begin + k) * c.envs + e] = y;
    }
  }
}

}  // namespace
}  // namespace trpo_fast::cuda
