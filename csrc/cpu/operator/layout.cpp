// Plan and packing. The only code that knows both orders of a vector.
#include "cpu/operator/layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/kernels/split.h"
#include "shared/heads.h"

namespace trpo_fast::cpu {
namespace {

int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Row strides of multiples of 1 KiB would map the rows of a tile onto few cache sets.
int row_stride(int width, int vector) {
  const int padded = round_up(width, vector);
  return padded % 256 == 0 ? padded + vector : padded;
}

constexpr int64_t kBlockBytes = 192 << 10;  // tangents and inputs of a block: a tenth of an L2
constexpr int kFewestRows = 48, kMostRows = 96;

// Tiles multiply faster than an L2 brings their operands. A large net's weights, v and sums
// do not even stay there from block to block: long blocks ask for them less often.
constexpr int64_t kLargeNet = 32 << 10;  // weights
constexpr int kTileRows = 96, kTileRowsOfLargeNet = 192;

int choose_block_rows(const NetShape& net, const CpuKernels& kernels) {
  if (kernels.split) {
    int64_t weights = 0;
    for (int l = 0; l < net.maps; ++l) weights += int64_t{net.width[l]} * net.width[l + 1];
    return weights < kLargeNet ? kTileRows : kTileRowsOfLargeNet;
  }
  int64_t floats = 0;
  for (int l = 0; l <= net.maps; ++l) floats += 2 * net.width[l];
  const int64_t fits = kBlockBytes / (4 * floats);
  return round_up(static_cast<int>(std::clamp<int64_t>(fits, kFewestRows, kMostRows)),
                  kernels.tile_rows);
}

// Calls f(flat index of W[o][i], packed index) for every weight of a map, and for its bias.
template <class F>
int64_t walk_map(const Plan& plan, const MapPlan& map, int64_t flat, const F& f) {
  for (int o = 0; o < map.out; ++o) {
    const int panel = o / plan.panel * plan.panel;
    const int width = std::min(plan.panel, map.out_pad - panel);
    const int64_t start = map.narrow ? map.weight + int64_t{o} * map.in_pad
                                     : map.weight + int64_t{panel} * map.in + (o - panel);
    const int64_t step = map.narrow ? 1 : width;
    f(flat, start, step, map.in);
    flat += map.in;
  }
  f(flat, map.bias, int64_t{1}, map.out);
  return flat + map.out;
}

// f(flat index, packed index, packed step, count) for every run of a flat vector.
template <class F>
void walk(const Plan& plan, const F& f) {
  int64_t flat = 0;
  for (int l = 0; l < plan.net.maps; ++l) flat = walk_map(plan, plan.map[l], flat, f);
  f(flat, plan.log_std, int64_t{1}, plan.log_std_count);
}

void add_operands(MapPlan& map, int l, Plan* plan) {
  map.split = plan->split_size;
  plan->split_size += operand_size(map.out, map.in);
  plan->split_pieces += tiles_over(map.out);
  if (l == 0) return;
  map.back_split = plan->back_split_size;
  plan->back_split_size += operand_size(map.in, map.out);
}

}  // namespace

Plan make_plan(const NetShape& net, const CpuKernels& kernels) {
  Plan plan{};
  plan.net = net;
  plan.vector = kernels.vector;
  plan.panel = kernels.panel;
  plan.tile_rows = kernels.tile_rows;
  plan.split = kernels.split;
  plan.block_rows = choose_block_rows(net, kernels);
  plan.ld[0] = net.width[0];
  for (int l = 0; l < net.maps; ++l) {
    MapPlan& map = plan.map[l];
    map.in = net.width[l];
    map.out = net.width[l + 1];
    map.in_pad = round_up(map.in, plan.vector);
    map.out_pad = round_up(map.out, plan.vector);
    map.narrow = l > 0 && l == net.maps - 1 && !kernels.split;
    plan.ld[l + 1] = row_stride(map.out, plan.vector);
    map.weight = plan.size;
    plan.size += map.narrow ? int64_t{map.out} * map.in_pad : int64_t{map.in} * map.out_pad;
    map.bias = plan.size;
    plan.size += map.out_pad;
    plan.flat_size += int64_t{map.in} * map.out + map.out;
    if (l > 0 && !map.narrow) {
      map.back = plan.back_size;
      plan.back_size += int64_t{map.out} * map.in_pad;
    }
    if (plan.split) add_operands(map, l, &plan);
  }
  plan.factors_ld = row_stride(metric_width(net), plan.vector);
  plan.log_std = plan.size;
  plan.log_std_count = net.head == Head::kGaussian ? net.width[net.maps] : 0;
  plan.size += round_up(plan.log_std_count, plan.vector);
  plan.flat_size += plan.log_std_count;
  return plan;
}

// A GPU's NaN has all bits set: rounding it to 16 bits, as split precision does, would make it zero.
void pack(const Plan& plan, const float* flat, float* packed) {
  std::fill_n(packed, plan.size, 0.0f);
  walk(plan, [&](int64_t from, int64_t to, int64_t step, int count) {
    for (int i = 0; i < count; ++i) {
      const float x = flat[from + i];
      packed[to + i * step] = x == x ? x : NAN;
    }
  });
}

void unpack(const Plan& plan, const float* packed, float* flat) {
  walk(plan, [&](int64_t to, int64_t from, int64_t step, int count) {
    for (int i = 0; i < count; ++i) flat[to + i] = packed[from + i * step];
  });
}

void pack_back(const Plan& plan, const float* flat, float* back) {
  std::fill_n(back, plan.back_size, 0.0f);
  for (int l = 0; l < plan.net.maps; ++l) {
    const MapPlan& map = plan.map[l];
    if (l > 0 && !map.narrow) {
      for (int o = 0; o < map.out; ++o) {
        for (int panel = 0; panel < map.in; panel += plan.panel) {
          const int width = std::min(plan.panel, map.in_pad - panel);
          const int count = std::min(width, map.in - panel);
          float* to = back + map.back + int64_t{panel} * map.out + int64_t{o} * width;
          std::memcpy(to, flat + int64_t{o} * map.in + panel, sizeof(float) * count);
        }
      }
    }
    flat += int64_t{map.in} * map.out + map.out;
  }
}

}  // namespace trpo_fast::cpu
