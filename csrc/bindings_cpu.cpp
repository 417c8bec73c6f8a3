// The CPU core's part of trpo_fast._C: an operator over raw pointers, whose tensors the caller keeps
// alive. Sizes are asserted here; everything else was checked by trpo_fast/checks.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <vector>

#include "bindings.h"
#include "check.h"
#include "cpu/dispatch.h"
#include "cpu/operator.h"

namespace py = pybind11;

namespace trpo_fast {
namespace {

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

std::unique_ptr<CpuOperator> make_operator(const py::dict& problem, bool reverse_kl,
                                           int bf16_planes) {
  return std::make_unique<CpuOperator>(fvp_params(problem), reverse_kl,
                                       kernels_for(selected_isa(), bf16_planes));
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

// table [columns, 4]: x'Ax, |r|, iterations, p'Ap of the first one.
void solve(CpuOperator& op, uintptr_t g, int64_t columns, int iterations, double tol, uintptr_t x,
           uintptr_t table, int threads) {
  std::vector<Solved> solved(static_cast<size_t>(columns));
  run(threads, [&](const CallOptions& call) {
    op.solve(pointer<const float>(g), columns, cg_params(iterations, tol), pointer<float>(x),
             solved.data(), call);
  });
  double* to = pointer<double>(table);
  for (const Solved& s : solved) {
    *to++ = s.quad;
    *to++ = s.residual_norm;
    *to++ = static_cast<double>(s.iterations);
    *to++ = s.first_curvature;
  }
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
  type.def(py::init(&make_operator), py::arg("problem"), py::kw_only(), py::arg("reverse_kl"),
           py::arg("bf16_planes"));
  bind_stages(type);
  bind_fused(type);
  m.attr("families").attr("append")("cpu");
}

}  // namespace trpo_fast
