#include "cpu/learner/critic.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace trpo_fast::cpu {
namespace {

constexpr int64_t kBlocksWanted = 4;  // of a small minibatch: two threads can share them evenly
constexpr int kMostLanes = 32;
constexpr int64_t kSliceFloats = 1024;
// Rows times parameters below which a minibatch is over before a second thread has helped: 128 rows
// of a 64-64 net took 36 us on one thread and on two (bench critic, C1), 1024 rows 260 and 170 us.
constexpr int64_t kWorkForThreads = int64_t{1} << 20;

}  // namespace

CriticFit::CriticFit(const NetShape& net, const CriticBatch& batch, const CpuKernels& kernels)
    : kernels_(kernels),
      plan_(make_plan(net, kernels)),
      batch_(batch),
      theta_(plan_.size),
      back_(plan_.back_size) {
  cut_parameters();
}

void CriticFit::cut_parameters() {
  int64_t done = 0;
  const auto plain = [&](int64_t end) {
    for (; done < end; done += slices_.back().count) {
      slices_.push_back({done, std::min(end - done, kSliceFloats), -1, 0, 0, 0});
    }
  };
  for (int l = 1; l < plan_.net.maps; ++l) {
    const MapPlan& map = plan_.map[l];
    if (map.narrow) continue;
    plain(map.weight);
    for (int o = 0; o < map.out; o += plan_.panel) {
      const int width = std::min(plan_.panel, map.out_pad - o);
      for (int i = 0; i < map.in; i += plan_.panel) {  // within one panel of `back`
        const int inputs = std::min(plan_.panel, map.in - i);
        const int64_t begin = map.weight + int64_t{o} * map.in + int64_t{i} * width;
        slices_.push_back({begin, int64_t{inputs} * width, l, o, i, inputs});
      }
    }
    done = map.bias;
  }
  plain(plan_.size);
}

void CriticFit::prepare(const float* theta, int64_t largest, int threads) {
  pack(plan_, theta, theta_.data());
  pack_back(plan_, theta, back_.data());
  lane_sums_.reserve(lanes_in(largest) * plan_.size);
  while (static_cast<int>(work_.size()) < std::clamp(threads, 1, kMaxThreads)) {
    work_.push_back(std::make_unique<Workspace>(plan_));
  }
}

int CriticFit::useful_threads(int64_t rows, int threads) const {
  return rows * plan_.size < kWorkForThreads ? 1 : threads;
}

// ---- rows

// Rows of a block when `count` rows are cut: a function of the count alone.
int64_t CriticFit::block_rows(int64_t count) const {
  const int64_t tile = plan_.tile_rows;
  const int64_t wanted = ((count + kBlocksWanted - 1) / kBlocksWanted + tile - 1) / tile * tile;
  return std::min<int64_t>(std::max(wanted, 2 * tile), plan_.block_rows);
}

int64_t CriticFit::blocks_in(int64_t count) const {
  return (count + block_rows(count) - 1) / block_rows(count);
}

int CriticFit::lanes_in(int64_t count) const {
  return static_cast<int>(std::min<int64_t>(blocks_in(count), kMostLanes));
}

double CriticFit::weight_of(const int64_t* rows, int64_t count) const {
  if (!batch_.weights) return static_cast<double>(count);
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total += batch_.weights[rows ? rows[i] : i];
  return total;
}

Block CriticFit::gather(const Minibatch& rows, int64_t first, int count, Workspace& work) const {
  const int64_t width = plan_.ld[0];
  Block block{};
  block.rows = count;
  block.padded_rows = (count + plan_.tile_rows - 1) / plan_.tile_rows * plan_.tile_rows;
  block.obs = work.obs.data();
  for (int m = 0; m < count; ++m) {
    const int64_t n = rows.rows ? rows.rows[first + m] : first + m;
    std::copy_n(batch_.obs + n * width, width, work.obs.data() + m * width);
  }
  std::fill_n(work.obs.data() + count * width, (block.padded_rows - count) * width, 0.0f);
  for (int l = 1; l < plan_.net.maps; ++l) {
    block.hidden[l] = work.hidden[l].data();
    block.slope[l] = work.slope[l].data();
    block.tangent[l] = work.tangent[l].data();
  }
  block.outputs = work.outputs.data();
  return block;
}

// Turns the values of a block into deltas w (v - t) / sum w; its share of the minibatch's loss.
double CriticFit::differences(const Minibatch& rows, int64_t first, const Block& block) const {
  const int64_t ld = plan_.ld[plan_.net.maps];
  double loss = 0.0;
  for (int m = 0; m < block.rows; ++m) {
    const int64_t n = rows.rows ? rows.rows[first + m] : first + m;
    const double share = (batch_.weights ? batch_.weights[n] : 1.0) / rows.weight;
    const float difference = block.outputs[m * ld] - batch_.targets[n];
    loss += 0.5 * share * difference * difference;
    block.outputs[m * ld] = static_cast<float>(share) * difference;
  }
  for (int m = block.rows; m < block.padded_rows; ++m) block.outputs[m * ld] = 0.0f;
  return loss;
}

// One phase over the rows: leaves each lane's gradient in lane_sums_ and returns the loss.
double CriticFit::run_lanes(Team& team, const Minibatch& rows, bool gradient) {
  const int64_t blocks = blocks_in(rows.count), size = block_rows(rows.count);
  const int lanes = lanes_in(rows.count);
  double losses[kMostLanes];
  const Weights weights{theta_.data(), back_.data(), nullptr, nullptr};
  team.lanes(lanes, [&](int64_t lane, int worker) {
    Workspace& work = *work_[static_cast<size_t>(worker)];
    const int64_t begin = lane * blocks / lanes, end = (lane + 1) * blocks / lanes;
    losses[lane] = 0.0;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * size;
      const int count = static_cast<int>(std::min(size, rows.count - first));
      const Block block = gather(rows, first, count, work);
      kernels_.forward(plan_, weights, block);
      losses[lane] += differences(rows, first, block);
      if (!gradient) continue;
      kernels_.vjp(plan_, weights, block, lane_sums_.data() + lane * plan_.size, b == begin);
    }
  });
  double loss = 0.0;
  for (int lane = 0; lane < lanes; ++lane) loss += losses[lane];
  return loss;
}

double CriticFit::loss(const float* theta, float* gradient, int threads) {
  threads = useful_threads(batch_.count, threads);
  prepare(theta, batch_.count, threads);
  const Minibatch all = {nullptr, batch_.count, weight_of(nullptr, batch_.count)};
  double loss = 0.0;
  run_team(threads, [&](Team& team) { loss = run_lanes(team, all, gradient != nullptr); });
  if (gradient) {
    Array<float> sum(plan_.size);
    kernels_.sum_lanes(lane_sums_.data(), lanes_in(batch_.count), plan_.size, 0, plan_.size,
                       sum.data());
    unpack(plan_, sum.data(), gradient);
  }
  return loss;
}

// ---- parameters

void CriticFit::copy_back(const Slice& slice) {
  const MapPlan& map = plan_.map[slice.map];
  const int width = std::min(plan_.panel, map.out_pad - slice.output);
  const int outputs = std::min(width, map.out - slice.output);
  const int row = std::min(plan_.panel, map.in_pad - slice.input);
  const float* from = theta_.data() + slice.begin;
  float* to =
      back_.data() + map.back + int64_t{slice.input} * map.out + int64_t{slice.output} * row;
  for (int o = 0; o < outputs; ++o) {
    for (int i = 0; i < slice.inputs; ++i) to[o * row + i] = from[i * width + o];
  }
}

void CriticFit::adam_step(Team& team, const AdamStep& step, int lanes, float* first,
                          float* second) {
  team.lanes(static_cast<int64_t>(slices_.size()), [&](int64_t i, int) {
    const Slice& s = slices_[static_cast<size_t>(i)];
    kernels_.adam(step, lane_sums_.data() + s.begin, lanes, plan_.size, theta_.data() + s.begin,
                  first + s.begin, second + s.begin, s.count);
    if (s.map >= 0) copy_back(s);
  });
}

double CriticFit::adam(const AdamParams& params, float* theta, float* first, float* second,
                       int threads, const std::function<void()>& interrupt) {
  threads = useful_threads(std::min(params.minibatch, batch_.count), threads);
  prepare(theta, std::min(params.minibatch, batch_.count), threads);
  Array<float> m(plan_.size), v(plan_.size);
  pack(plan_, first, m.data());
  pack(plan_, second, v.data());
  double taken = static_cast<double>(params.steps), mean = 0.0;
  run_team(threads, [&](Team& team) {
    for (int epoch = 0; epoch < params.epochs; ++epoch) {
      interrupt();
      double total = 0.0, weight = 0.0;
      for (int64_t at = 0; at < batch_.count; at += params.minibatch) {
        const int64_t count = std::min(params.minibatch, batch_.count - at);
        const int64_t* rows = params.order + epoch * batch_.count + at;
        const Minibatch minibatch = {rows, count, weight_of(rows, count)};
        total += minibatch.weight * run_lanes(team, minibatch, true);
        weight += minibatch.weight;
        taken += 1.0;
        const double correction1 = 1.0 - std::pow(static_cast<double>(params.beta1), taken);
        const double correction2 = 1.0 - std::pow(static_cast<double>(params.beta2), taken);
        const AdamStep step = {params.beta1, params.beta2, params.eps,
                               static_cast<float>(params.learning_rate / correction1),
                               static_cast<float>(1.0 / correction2)};
        adam_step(team, step, lanes_in(count), m.data(), v.data());
      }
      mean = total / weight;
    }
  });
  if (!std::isfinite(mean) || !kernels_.all_finite(theta_.data(), plan_.size)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  unpack(plan_, theta_.data(), theta);
  unpack(plan_, m.data(), first);
  unpack(plan_, v.data(), second);
  return mean;
}

}  // namespace trpo_fast::cpu
