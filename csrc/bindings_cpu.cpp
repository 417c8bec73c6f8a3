// The CPU core's part of trpo_fast._C: an operator over raw pointers, whose tensors the caller keeps
// alive. Sizes are asserted here; everything else was checked by trpo_fast/checks.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <string>
#include <vector>

#include "bindings.h"
#include "check.h"
#include "cpu/dispatch.h"
#include "cpu/operator.h"

namespace py = pybind11;

namespace trpo_fast {

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

namespace {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Asks Python for signals now and then: taking the interpreter lock at every iteration would wait
// for whichever thread holds it.
class SignalWatch {
 public:
  static bool wanted(void* self) { return static_cast<SignalWatch*>(self)->check(); }

 private:
  using Clock = std::chrono::steady_clock;

  bool check() {
    const auto now = Clock::now();
    if (now < next_) return false;
    next_ = now + std::chrono::milliseconds(100);
    const py::gil_scoped_acquire lock;
    return PyErr_CheckSignals() != 0;
  }

  Clock::time_point next_ = Clock::now() + std::chrono::milliseconds(100);
};

// Runs f without the interpreter lock; an interrupt becomes the exception its handler set.
template <class F>
void run(int threads, const F& f) {
  TRPO_CHECK(threads > 0, "at least one thread", threads);
  SignalWatch watch;
  try {
    const py::gil_scoped_release release;
    f(CallOptions{threads, {&SignalWatch::wanted, &watch}});
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

std::unique_ptr<CpuOperator> make_operator(
    const std::vector<int>& widths, int activation, int head, const std::vector<int>& nvec,
    uintptr_t theta, int64_t parameters, uintptr_t obs, int64_t count, uintptr_t weights,
    uintptr_t mask, uintptr_t actions, uintptr_t choices, uintptr_t advantages, uintptr_t log_probs,
    int64_t group_size, uintptr_t fvp_rows, int64_t fvp_count, int64_t chunk_rows, double damping,
    double kl_scale, bool reverse_kl) {
  FvpParams params{};
  params.net = net_shape(widths, activation, head, nvec);
  params.theta = pointer<const float>(theta);
  TRPO_CHECK(count > 0, "at least one row", count);
  params.rows = {count,
                 pointer<const float>(obs),
                 pointer<const float>(weights),
                 pointer<const uint8_t>(mask),
                 pointer<const float>(actions),
                 pointer<const int64_t>(choices),
                 pointer<const float>(advantages),
                 pointer<const float>(log_probs),
                 group_size};
  params.fvp_rows = pointer<const int64_t>(fvp_rows);
  params.fvp_count = fvp_count;
  params.chunk_rows = chunk_rows;
  params.damping = static_cast<float>(damping);
  params.kl_scale = static_cast<float>(kl_scale);
  auto op = std::make_unique<CpuOperator>(params, reverse_kl, kernels_for(selected_isa()));
  TRPO_CHECK_EQ("theta: length", parameters, op->plan().flat_size);
  return op;
}

py::tuple as_tuple(const Evaluated& e) {
  return py::make_tuple(e.kl, e.max_kl, e.surrogate, e.entropy);
}

CgParams cg_params(int iterations, double tol) { return {iterations, static_cast<float>(tol)}; }

void bind_stages(py::class_<CpuOperator>& type) {
  type.def("forward", [](CpuOperator& op, uintptr_t params, int threads) {
    run(threads, [&](const CallOptions& call) { op.forward(pointer<float>(params), call); });
  });
  type.def("jvp", [](CpuOperator& op, uintptr_t v, uintptr_t tangent, int threads) {
    run(threads, [&](const CallOptions& call) {
      op.jvp(pointer<const float>(v), pointer<float>(tangent), call);
    });
  });
  type.def("metric", [](CpuOperator& op, uintptr_t tangent, uintptr_t out, int threads) {
    run(threads, [&](const CallOptions& call) {
      op.metric(pointer<const float>(tangent), pointer<float>(out), call);
    });
  });
  type.def("vjp", [](CpuOperator& op, uintptr_t delta, uintptr_t out, int threads) {
    run(threads, [&](const CallOptions& call) {
      op.vjp(pointer<const float>(delta), pointer<float>(out), call);
    });
  });
}

py::list solve(CpuOperator& op, uintptr_t g, int64_t columns, int iterations, double tol,
               uintptr_t x, int threads) {
  std::vector<Solved> solved(static_cast<size_t>(columns));
  run(threads, [&](const CallOptions& call) {
    op.solve(pointer<const float>(g), columns, cg_params(iterations, tol), pointer<float>(x),
             solved.data(), call);
  });
  py::list result;
  for (const Solved& s : solved) {
    result.append(py::make_tuple(s.quad, s.residual_norm, s.iterations, s.first_curvature));
  }
  return result;
}

void update(CpuOperator& op, uintptr_t theta, uintptr_t stats, int iterations, double tol,
            double max_kl, double ratio, int steps, bool search, double learning_rate,
            int threads) {
  const UpdateParams params{
      cg_params(iterations, tol),
      {static_cast<float>(max_kl), static_cast<float>(ratio), steps, false, search},
      learning_rate};
  run(threads, [&](const CallOptions& call) {
    op.update(params, pointer<float>(theta), pointer<double>(stats), call);
  });
}

void bind_fused(py::class_<CpuOperator>& type) {
  type.def("fvp", [](CpuOperator& op, uintptr_t v, int64_t columns, uintptr_t out, int threads) {
    run(threads, [&](const CallOptions& call) {
      op.fvp(pointer<const float>(v), columns, pointer<float>(out), call);
    });
  });
  type.def("solve", &solve);
  type.def("gradient", [](CpuOperator& op, uintptr_t g, int threads) {
    Evaluated at;
    run(threads, [&](const CallOptions& call) { at = op.gradient(pointer<float>(g), call); });
    return as_tuple(at);
  });
  type.def("evaluate", [](CpuOperator& op, uintptr_t theta, int threads) {
    Evaluated at;
    run(threads,
        [&](const CallOptions& call) { at = op.evaluate(pointer<const float>(theta), call); });
    return as_tuple(at);
  });
  type.def("bad_values", [](CpuOperator& op, int threads) {
    bool bad = true;
    run(threads, [&](const CallOptions& call) { bad = op.bad_values(call); });
    return bad;
  });
  type.def("update", &update);
  type.def_property_readonly("scratch_bytes", &CpuOperator::scratch_bytes);
}

}  // namespace

void bind_cpu(py::module_& m) {
  py::class_<CpuOperator> type(m, "CpuOperator");
  type.def(py::init(&make_operator), py::kw_only(), py::arg("widths"), py::arg("activation"),
           py::arg("head"), py::arg("nvec"), py::arg("theta"), py::arg("parameters"),
           py::arg("obs"), py::arg("count"), py::arg("weights"), py::arg("mask"),
           py::arg("actions"), py::arg("choices"), py::arg("advantages"), py::arg("log_probs"),
           py::arg("group_size"), py::arg("fvp_rows"), py::arg("fvp_count"), py::arg("chunk_rows"),
           py::arg("damping"), py::arg("kl_scale"), py::arg("reverse_kl"));
  bind_stages(type);
  bind_fused(type);
  m.attr("families").attr("append")("cpu");
}

}  // namespace trpo_fast
