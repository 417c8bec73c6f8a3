// A problem as trpo_fast/backends/native.py describes it, turned into the structs that both cores
// take. Sizes are asserted here; everything else was checked by trpo_fast/core/checks.py.
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/bindings.h"
#include "shared/check.h"

namespace py = pybind11;

namespace trpo_fast {
namespace {

int64_t flat_size(const NetShape& net) {
  int64_t size = net.head == Head::kGaussian ? net.width[net.maps] : 0;
  for (int l = 0; l < net.maps; ++l) size += int64_t{net.width[l] + 1} * net.width[l + 1];
  return size;
}

// The struct's fields, by name.
class Fields {
 public:
  explicit Fields(const py::dict& from) : from_(from) {}

  template <class T>
  T get(const char* name) const {
    return from_[name].cast<T>();
  }
  template <class T>
  const T* address(const char* name) const {  // zero: absent
    return pointer<const T>(get<uintptr_t>(name));
  }

 private:
  const py::dict& from_;
};

Rows rows_from(const Fields& problem) {
  Rows rows{};
  rows.count = problem.get<int64_t>("count");
  rows.obs = problem.address<float>("obs");
  rows.weights = problem.address<float>("weights");
  rows.mask = problem.address<uint8_t>("mask");
  rows.actions = problem.address<float>("actions");
  rows.choices = problem.address<int64_t>("choices");
  rows.advantages = problem.address<float>("advantages");
  rows.log_probs = problem.address<float>("log_probs");
  rows.group_size = problem.get<int64_t>("group_size");
  TRPO_CHECK(rows.count > 0, "at least one row", rows.count);
  return rows;
}

}  // namespace

NetShape net_shape(const std::vector<int>& widths, int activation, int head,
                   const std::vector<int>& nvec) {
  NetShape net{};
  net.maps = static_cast<int>(widths.size()) - 1;
  TRPO_CHECK(net.maps >= 1 && net.maps <= kMaxMaps, "1 to 8 linear maps", net.maps);
  TRPO_CHECK(nvec.size() <= kMaxFactors, "at most 64 factors", nvec.size());
  std::copy(widths.begin(), widths.end(), net.width);
  net.activation = static_cast<Activation>(activation);
  net.head = static_cast<Head>(head);
  net.factors = static_cast<int>(nvec.size());
  std::copy(nvec.begin(), nvec.end(), net.nvec);
  return net;
}

FvpParams fvp_params(const py::dict& from) {
  const Fields problem(from);
  FvpParams params{};
  params.net = net_shape(problem.get<std::vector<int>>("widths"), problem.get<int>("activation"),
                         problem.get<int>("head"), problem.get<std::vector<int>>("nvec"));
  params.theta = problem.address<float>("theta");
  TRPO_CHECK_EQ("theta: length", problem.get<int64_t>("parameters"), flat_size(params.net));
  params.rows = rows_from(problem);
  params.fvp_rows = problem.address<int64_t>("fvp_rows");
  params.fvp_count = problem.get<int64_t>("fvp_count");
  params.chunk_rows = problem.get<int64_t>("chunk_rows");
  params.damping = problem.get<float>("damping");
  params.kl_scale = problem.get<float>("kl_scale");
  return params;
}

}  // namespace trpo_fast
