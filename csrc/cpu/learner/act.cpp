#include "cpu/learner/act.h"

#include <algorithm>
#include <cmath>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "shared/heads.h"
#include "shared/normalise.h"

namespace trpo_fast::cpu {
namespace {

constexpr int64_t kGroupsPerLane = 4;  // below two lanes of this many groups one thread is faster

int widest(const NetShape& net) { return *std::max_element(net.width, net.width + net.maps + 1); }

// Observations of rows first .. first + rows - 1 as columns, normalised on the way; unused columns
// repeat the first row, so that no garbage can turn into a slow denormal.
void load_columns(const ActParams& p, int64_t first, int rows, int columns, float* out) {
  const int width = p.policy.theta ? p.policy.shape.width[0] : p.critic.shape.width[0];
  for (int c = 0; c < columns; ++c) {
    const int64_t row = first + (c < rows ? c : 0);
    const float* obs = p.obs + row * width;
    for (int i = 0; i < width; ++i) {
      float x = obs[i];
      if (p.shift) x = normalised(x, p.shift[i], p.scale[i], p.clip);
      out[int64_t(i) * columns + c] = x;
      if (p.seen && c < rows) p.seen[row * width + i] = x;
    }
  }
}

void choose(const ActParams& p, const float* z, int64_t first, int rows, int columns) {
  const NetShape& net = p.policy.shape;
  const int outputs = net.width[net.maps], actions = action_columns(net);
  const int noise_width = noise_columns(net);
  for (int c = 0; c < rows; ++c) {
    const int64_t row = first + c;
    Strided<const float> second = {z + int64_t(actions) * columns + c, columns};
    if (net.head == Head::kGaussian) {
      const float* after = p.policy.theta;
      for (int l = 0; l < net.maps; ++l) after += int64_t(net.width[l] + 1) * net.width[l + 1];
      second = {after, 1};
    }
    const DistRow dist = {{z + c, columns}, second, p.mask ? p.mask + row * outputs : nullptr};
    float* values = p.actions ? p.actions + row * actions : nullptr;
    int64_t* choices = p.choices ? p.choices + row * actions : nullptr;
    head_sample(net, dist, p.noise + row * noise_width, values, choices);
    p.log_probs[row] = head_log_prob(net, dist, {values, choices});
  }
}

struct Planes {
  float* obs;
  float* pair[2];
};

void act_group(const ActParams& p, const CpuKernels& kernels, int64_t first, int rows, int vectors,
               const Planes& planes) {
  const int columns = vectors * kernels.vector;
  load_columns(p, first, rows, columns, planes.obs);
  if (p.policy.theta) {
    const float* z =
        kernels.forward_columns(p.policy.shape, p.policy.theta, planes.obs, planes.pair, vectors);
    choose(p, z, first, rows, columns);
  }
  if (p.critic.theta) {
    const float* v =
        kernels.forward_columns(p.critic.shape, p.critic.theta, planes.obs, planes.pair, vectors);
    const float shift = p.value_shift ? *p.value_shift : 0.0f;
    const float scale = p.value_scale ? *p.value_scale : 1.0f;
    for (int c = 0; c < rows; ++c) p.values[first + c] = shift + scale * v[c];
  }
}

}  // namespace

void act(const ActParams& p, const CpuKernels& kernels, int threads) {
  const int vectors = p.count > kernels.vector ? 2 : 1;
  const int columns = vectors * kernels.vector;
  const int64_t groups = (p.count + columns - 1) / columns;
  const int64_t lanes = std::max<int64_t>(groups / kGroupsPerLane, 1);
  const int workers = int(std::clamp<int64_t>(threads, 1, std::min<int64_t>(lanes, kMaxThreads)));
  int width = 1;
  if (p.policy.theta) width = std::max(width, widest(p.policy.shape));
  if (p.critic.theta) width = std::max(width, widest(p.critic.shape));
  const int64_t plane = int64_t(width) * columns;
  Array<float> scratch(3 * plane * workers);
  run_team(workers, [&](Team& team) {
    team.lanes(lanes, [&](int64_t lane, int worker) {
      float* at = scratch.data() + 3 * plane * worker;
      const Planes planes = {at, {at + plane, at + 2 * plane}};
      const int64_t end = (lane + 1) * groups / lanes;
      for (int64_t group = lane * groups / lanes; group < end; ++group) {
        const int64_t first = group * columns;
        const int rows = int(std::min<int64_t>(columns, p.count - first));
        act_group(p, kernels, first, rows, vectors, planes);
      }
    });
  });
}

}  // namespace trpo_fast::cpu
