#include "kernel_problem.h"

#include <cstring>

namespace emulation_cases {

Problem::Problem(const ProblemShape& shape) : shape(shape) {
  fill_net();
  fill_rows();
  fill_call();
}

float Problem::next() {
  state_ = state_ * 1664525u + 1013904223u;
  return float(int(state_ >> 8) - (1 << 23)) * 0x1p-23f;
}

std::unique_ptr<DeviceArray<float>> Problem::random(size_t count, float scale) {
  auto array = std::make_unique<DeviceArray<float>>(count);
  for (float& value : *array) value = scale * next();
  return array;
}

void Problem::fill_net() {
  net.maps = int(shape.widths.size()) - 1;
  for (size_t i = 0; i < shape.widths.size(); ++i) net.width[i] = shape.widths[i];
  net.activation = shape.activation;
  net.head = shape.head;
  net.factors = int(shape.nvec.size());
  for (size_t i = 0; i < shape.nvec.size(); ++i) net.nvec[i] = shape.nvec[i];
  const Layout layout = make_layout(net, kRowGroups);
  parameters = layout.flat;
  theta = random(size_t(parameters), 1);
  for (int i = 0; i < net.maps; ++i) {  // a tame net: inputs of a unit sum to about one
    const float scale = 1.0f / std::sqrt(float(net.width[i]));
    for (int k = 0; k < net.width[i] * net.width[i + 1]; ++k)
      (*theta)[layout.map[i].flat + k] *= scale;
  }
}

void Problem::fill_rows() {
  const size_t rows = size_t(shape.rows), outputs = size_t(net.width[net.maps]);
  const int columns = action_columns(net);
  obs = random(rows * net.width[0], 2);
  advantages = random(rows, 1);
  Rows& r = call.fvp.rows;
  r.count = shape.rows;
  r.obs = obs->data();
  r.advantages = advantages->data();
  r.group_size = shape.group_size;
  if (net.factors) {
    choices_ = std::make_unique<DeviceArray<int64_t>>(rows * net.factors, 0);
    for (size_t i = 0; i < choices_->size(); ++i)
      (*choices_)[i] = int64_t(i * 7 % net.nvec[i % net.factors]);
    r.choices = choices_->data();
  } else {
    actions = random(rows * columns, 1);
    if (net.head == Head::kBernoulli)
      for (float& a : *actions) a = a > 0 ? 1 : 0;
    r.actions = actions->data();
  }
  if (shape.mask) {  // every third forbidden, except what was chosen
    mask_ = std::make_unique<DeviceArray<uint8_t>>(rows * outputs, 1);
    for (size_t n = 0; n < rows; ++n)
      for (size_t z = 0, first = 0, f = 0; z < outputs; ++z) {
        if (z == first + net.nvec[f]) first = z, ++f;
        const bool chosen = (*choices_)[n * net.factors + f] == int64_t(z - first);
        (*mask_)[n * outputs + z] = chosen || (n + z) % 3 != 0;
      }
    r.mask = mask_->data();
  }
  if (shape.weights) {  // a row of weight zero may hold anything
    row_weights = random(rows, 1);
    for (float& w : *row_weights) w = w < -0.5f ? 0 : w + 1;
    (*row_weights)[0] = 1;
    for (size_t n = 0; n < rows; ++n)
      if ((*row_weights)[n] == 0) (*obs)[n * net.width[0]] = (*advantages)[n] = NAN;
    r.weights = row_weights->data();
  }
  if (shape.old_params) {  // near what a tame net puts out
    old_params = random(rows * dist_params(net), 0.3f);
    for (size_t n = 0; n < rows && row_weights; ++n)
      if ((*row_weights)[n] == 0) (*old_params)[n * dist_params(net)] = NAN;
    r.old_params = old_params->data();
  }
  if (shape.subset) {
    fvp_rows_ = std::make_unique<DeviceArray<int64_t>>((rows + 2) / 3, 0);
    for (size_t i = 0; i < fvp_rows_->size(); ++i) (*fvp_rows_)[i] = int64_t(3 * i);
  }
}

void Problem::fill_call() {
  FvpParams& fvp = call.fvp;
  fvp.net = net;
  fvp.theta = theta->data();
  fvp.fvp_rows = fvp_rows_ ? fvp_rows_->data() : nullptr;
  fvp.fvp_count = fvp_rows_ ? int64_t(fvp_rows_->size()) : shape.rows;
  fvp.chunk_rows = shape.chunk_rows;
  fvp.damping = 0.1f;
  fvp.kl_scale = 1;
  DeviceLimits limits{};
  CHECK(trpo_fast_cuda_api()->device_limits(0, &limits) == 0);
  const PlanRequest request = {net,          shape.rows,       fvp.fvp_count,
                               shape.subset, shape.chunk_rows, shape.group_size,
                               shape.grid,   shape.precision};
  call.plan = make_plan(request, limits);
  call.columns = shape.columns;
  in = random(size_t(parameters) * shape.columns, 1);
  out = std::make_unique<DeviceArray<float>>(in->size(), NAN);
  theta_out = std::make_unique<DeviceArray<float>>(size_t(parameters), NAN);
  stats =
      std::make_unique<DeviceArray<double>>(size_t(kStatCount + kSolvedCount * shape.columns), NAN);
  scratch_ = std::make_unique<DeviceArray<unsigned char>>(
      size_t(scratch_bytes(call.plan, fvp, shape.factor_stride)), 0xff);
  call.v = in->data();
  call.out = out->data();
  call.theta_out = theta_out->data();
  call.stats = stats->data();
  call.scratch = scratch_->data();
  call.cg = {3, 0, shape.gain_tol, shape.factor_stride};
  call.atomics = shape.atomics;
  call.search = {0.01f, 0.5f, 6, shape.reverse, true, false};
}

std::vector<float> Problem::run_once(int (*entry)(const ResidentCall&), emulation::Order order) {
  for (DeviceArray<float>* array : {out.get(), theta_out.get()})
    for (float& value : *array) value = NAN;
  for (double& value : *stats) value = NAN;
  memset(scratch_->data(), 0xff, scratch_->size());  // any contents will do
  emulation::options.order = order;
  if (const int error = entry(call)) {
    report(__FILE__, __LINE__, trpo_fast_cuda_api()->error_string(error));
    return {};
  }
  std::vector<float> all(out->begin(), out->end());
  all.insert(all.end(), theta_out->begin(), theta_out->end());
  all.insert(all.end(), stats->begin(), stats->end());
  return all;
}

std::vector<float> Problem::run(int (*CudaApi::*entry)(const ResidentCall&)) {
  const emulation::Order chosen = emulation::options.order;
  std::vector<float> first = run_once(trpo_fast_cuda_api()->*entry, chosen);
#if !defined(__SANITIZE_THREAD__)  // TSan sees every order in one
  for (const auto order :
       {emulation::Order::kFifo, emulation::Order::kLifo, emulation::Order::kRandom}) {
    if (shape.atomics || order == chosen) continue;
    const std::vector<float> again = run_once(trpo_fast_cuda_api()->*entry, order);
    CHECK(again.size() == first.size());
    CHECK(!memcmp(again.data(), first.data(), 4 * std::min(first.size(), again.size())));
  }
#endif
  emulation::options.order = chosen;
  return first;
}

}  // namespace emulation_cases
