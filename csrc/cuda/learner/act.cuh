// act: observations of all environments -> actions, log-probabilities and values, in one launch.
// Reads observations (normalised on the way in), flat parameters and noise; writes what ActCall names.
//
// blockIdx.y is the net that a block serves, blockIdx.x its first tile of rows. The nets share
// nothing but the observations, so policy and critic run side by side.
#pragma once
#include "cuda/learner/act.h"
#include "cuda/learner/calls.h"
#include "cuda/resident/forward.cuh"
#include "shared/normalise.h"

namespace trpo_fast::cuda {

struct DeviceNet {
  Layout layout;
  const float* theta;  // [P] flat
  int weights;         // floats of shared memory for packed weights
  bool resident;       // they hold the whole net
  int widest;          // stride of the planes of outputs
};

// Passed by value; read from the constant bank.
struct ActArgs {
  ActCall call;
  DeviceNet net[kActSides];
  int first_side;  // of the nets that take part
};

namespace {

// A block's shared memory.
struct ActBlock {
  float* weights;
  float* obs;      // [rows, O] with their constant 1
  float* pair[2];  // [rows, H]: outputs of one map, then of the next
  float* log_std;  // [A]
};

__host__ __device__ inline ActBlock carve_act(Carve& carve, const DeviceNet& net) {
  const Layout& l = net.layout;
  ActBlock b;
  b.weights = carve.take<float>(net.weights);
  b.obs = carve.take<float>(l.rows * l.map[0].stride_in);
  for (float*& plane : b.pair) plane = carve.take<float>(l.rows * net.widest);
  b.log_std = carve.take<float>(padded(l.actions));
  return b;
}

// Packed rows [first, first + count) of a map. No barrier.
__device__ __forceinline__ void block_load_panel(const MapLayout& m, const float* theta, int first,
                                                 int count, float* panel) {
  for (int o = warp_index(); o < count; o += kThreads / 32) {
    const float* row = theta + m.flat + (first + o) * m.in;
    const float bias = theta[m.flat + m.out * m.in + first + o];
    for (int k = lane_index(); k < m.stride_in; k += 32)
      panel[o * m.stride_in + k] = k < m.in ? row[k] : k == m.in ? bias : 0.0f;
  }
}

// Input k of the nets from the environment's x.
__device__ __forceinline__ float net_input(const ActCall& c, float x, int k) {
  return c.shift ? normalised(x, c.shift[k], c.scale[k], c.clip) : x;
}

// Observations of the tile that begins at row `first`; rows past the end are zeros. No barrier.
__device__ __forceinline__ void block_load_obs(const ActCall& c, const Layout& l, int64_t first,
                                               float* plane, float* seen) {
  const int in = l.map[0].in, stride = l.map[0].stride_in;
  for (int r = warp_index(); r < l.rows; r += kThreads / 32) {
    const int64_t n = first + r;
    for (int k = lane_index(); k < stride; k += 32) {
      const bool real = k < in && n < c.count;
      const float x = real ? net_input(c, c.obs[n * in + k], k) : k == in ? 1.0f : 0.0f;
      if (real && seen) seen[n * in + k] = x;
      plane[r * stride + k] = x;
    }
  }
}

// outputs = act(W inputs + b) of one map, followed in every row by the constant 1 and zeros up to the
// next quad. Opens with a barrier, unless it loads panels; then with two for each.
template <class V>
__device__ __forceinline__ void block_act_map(const DeviceNet& net, const ActBlock& b, int map,
                                              const float* inputs, float* outputs) {
  const Layout& l = net.layout;
  const MapLayout& m = l.map[map];
  const bool hidden = map < l.maps - 1;
  float* out = on_chip(outputs);
  const int room =
      net.weights / m.stride_in;  // a panel begins at a quad of outputs, if it holds one
  const int panel = net.resident ? m.out : room > 4 ? room & ~3 : room;
  for (int first = 0; first < m.out; first += panel) {
    const int count = min(panel, m.out - first);
    const float* weights = net.resident ? b.weights + m.weights : b.weights;
    if (!net.resident) {
      __syncthreads();  // readers of the last panel are done
      block_load_panel(m, net.theta, first, count, b.weights);
    }
    __syncthreads();  // inputs and panel are complete, readers of the outputs before these are done
    const Product product = map_product(m, inputs, weights, true);
    block_patches<V::kM>(
        count, [&](Patch& patch) { accumulate<V>(patch, product); },
        [&](const auto& piece) {
          piece.each_quad([&](int r, int o, auto value) {
            if (hidden) value.value = activate(l.activation, value.value).value;
            put(out + r * m.stride_out + first + o, value);
          });
        });
  }
  for (int r = threadIdx.x; r < l.rows; r += kThreads)
    for (int k = m.out; k < 4 * row_quads(m.out); ++k)
      out[r * m.stride_out + k] = k == m.out ? 1.0f : 0.0f;
}

// Actions and log-probabilities of a tile from the policy's outputs, one thread a row.
__device__ __forceinline__ void block_choose(const ActCall& c, const Layout& l, const ActBlock& b,
                                             const float* plane, int64_t first) {
  const int r = threadIdx.x;
  const int64_t n = first + r;
  if (r >= l.rows || n >= c.count) return;
  const float* outputs = on_chip(plane) + r * l.map[l.maps - 1].stride_out;
  const float* second = l.head == Head::kGaussian ? on_chip(b.log_std) : outputs + l.actions;
  const DistRow dist = {{outputs, 1}, {second, 1}, c.mask ? c.mask + n * l.outputs : nullptr};
  const int width = noise_columns(c.policy);
  float* values = c.actions ? c.actions + n * l.actions : nullptr;
  int64_t* choices = c.choices ? c.choices + n * l.actions : nullptr;
  head_sample(c.policy, dist, c.noise + n * width, values, choices);
  c.log_probs[n] = head_log_prob(c.policy, dist, {values, choices});
}

// Values of a tile from the critic's outputs.
__device__ __forceinline__ void block_value(const ActCall& c, const Layout& l, const float* plane,
                                            int64_t first) {
  const int r = threadIdx.x;
  if (r >= l.rows || first + r >= c.count) return;
  const float shift = c.value_shift ? *c.value_shift : 0.0f;
  const float scale = c.value_scale ? *c.value_scale : 1.0f;
  c.values[first + r] = shift + scale * on_chip(plane)[r * l.map[l.maps - 1].stride_out];
}

template <int kM>
__global__ void __launch_bounds__(kThreads, 1) act_kernel(const __grid_constant__ ActArgs a) {
  using V = Variation<kM, 1, false>;
  DYN_SMEM(shared);
  const int side = a.first_side + blockIdx.y;
  const DeviceNet& net = a.net[side];
  const Layout& l = net.layout;
  Carve carve(shared);
  const ActBlock b = carve_act(carve, net);

  // ---- parameters, once
  if (net.resident) pack(l, net.theta, b.weights, block_party());
  if (l.log_std >= 0)
    for (int i = threadIdx.x; i < l.actions; i += kThreads)
      b.log_std[i] = net.theta[l.flat_log_std + i];

  for (int64_t first = int64_t{blockIdx.x} * l.rows; first < a.call.count;
       first += int64_t{gridDim.x} * l.rows) {
    // ---- load, forward
    __syncthreads();  // readers of the last tile's planes are done
    block_load_obs(a.call, l, first, b.obs, side == kActPolicy ? a.call.seen : nullptr);
    for (int i = 0; i < l.maps; ++i)
      block_act_map<V>(net, b, i, i == 0 ? b.obs : b.pair[(i + 1) % 2], b.pair[i % 2]);
    __syncthreads();  // the outputs are complete

    // ---- choose
    const float* outputs = b.pair[(l.maps - 1) % 2];
    if (side == kActPolicy) {
      block_choose(a.call, l, b, outputs, first);
    } else {
      block_value(a.call, l, outputs, first);
    }
  }
}

}  // namespace
}  // namespace trpo_fast::cuda
