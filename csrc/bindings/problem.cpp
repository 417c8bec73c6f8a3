// The structs that both cores take, made by keyword: trpo_fast/backends/native.py fills them in.
// Sizes are asserted here; everything else was checked by trpo_fast/core/checks.py.
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

// Addresses are the caller's, who keeps the tensors alive; zero stands for "absent" where the struct
// allows null.
FvpParams fvp_params(const NetShape& net, uintptr_t theta, int64_t parameters, int64_t count,
                     uintptr_t obs, uintptr_t weights, uintptr_t mask, uintptr_t actions,
                     uintptr_t choices, uintptr_t advantages, uintptr_t log_probs,
                     int64_t group_size, uintptr_t old_params, uintptr_t fvp_rows,
                     int64_t fvp_count, int64_t chunk_rows, float damping, float kl_scale) {
  TRPO_CHECK_EQ("theta: length", parameters, flat_size(net));
  TRPO_CHECK(count > 0, "at least one row", count);
  const Rows rows = {count,
                     pointer<const float>(obs),
                     pointer<const float>(weights),
                     pointer<const uint8_t>(mask),
                     pointer<const float>(actions),
                     pointer<const int64_t>(choices),
                     pointer<const float>(advantages),
                     pointer<const float>(log_probs),
                     group_size,
                     pointer<const float>(old_params)};
  return {net,       pointer<const float>(theta),
          rows,      pointer<const int64_t>(fvp_rows),
          fvp_count, chunk_rows,
          damping,   kl_scale};
}

}  // namespace

void bind_problem(py::module_& m) {
  py::class_<NetShape>(m, "NetShape", "The widths, activation and head of a net.")
      .def(py::init(&net_shape), py::kw_only(), py::arg("widths"), py::arg("activation"),
           py::arg("head"), py::arg("nvec"));
  py::class_<FvpParams>(m, "FvpParams", "A net at one theta on its rows: what both cores read.")
      .def(py::init(&fvp_params), py::kw_only(), py::arg("net"), py::arg("theta"),
           py::arg("parameters"), py::arg("count"), py::arg("obs"), py::arg("weights"),
           py::arg("mask"), py::arg("actions"), py::arg("choices"), py::arg("advantages"),
           py::arg("log_probs"), py::arg("group_size"), py::arg("old_params"), py::arg("fvp_rows"),
           py::arg("fvp_count"), py::arg("chunk_rows"), py::arg("damping"), py::arg("kl_scale"));
}

}  // namespace trpo_fast
