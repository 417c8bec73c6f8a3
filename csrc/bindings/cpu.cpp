// The CPU core's part of trpo_fast._C: an operator over raw pointers, whose tensors the caller keeps
// alive. Sizes are asserted here; everything else was checked by trpo_fast/core/checks.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/turns.h"
#include "cpu/kernels/dispatch.h"
#include "cpu/operator/operator.h"
#include "shared/check.h"

namespace py = pybind11;

namespace trpo_fast {
namespace {

using namespace cpu;

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

// The core's operator, for any number of Python threads.
class CpuOperatorBinding {
 public:
  CpuOperatorBinding(const FvpParams& params, bool reverse_kl, const CpuKernels& kernels)
      : params_(params), reverse_kl_(reverse_kl), kernels_(kernels), core_(make()) {}
  ~CpuOperatorBinding() {
    if (turns_.cut_off()) (void)core_.release();
  }

  // Calls f(core, options) without the interpreter lock, one thread at a time; an interrupt becomes
  // the exception its handler set.
  template <class F>
  void run(int threads, const F& f) {
    TRPO_CHECK(threads > 0, "at least one thread", threads);
    if (turns_.begin()) (void)core_.release();
    const Turn turn{turns_};
    if (!core_) core_ = make();
    SignalWatch watch;
    try {
      const py::gil_scoped_release release;
      f(*core_, CallOptions{threads, {&SignalWatch::wanted, &watch}});
    } catch (const Interrupted&) {
      throw py::error_already_set();
    }
  }

  int64_t scratch_bytes() const { return core_ ? core_->scratch_bytes() : 0; }

 private:
  struct Turn {
    Turns& turns;
    ~Turn() { turns.end(); }
  };

  std::unique_ptr<CpuOperator> make() const {
    return std::make_unique<CpuOperator>(params_, reverse_kl_, kernels_);
  }

  FvpParams params_;
  bool reverse_kl_;
  const CpuKernels& kernels_;
  Turns turns_;
  std::unique_ptr<CpuOperator> core_;  // null: to be made at the next call
};

using Operator = CpuOperatorBinding;

std::unique_ptr<Operator> make_operator(const FvpParams& params, bool reverse_kl, int bf16_planes) {
  return std::make_unique<Operator>(params, reverse_kl, kernels_for(selected_isa(), bf16_planes));
}

py::tuple as_tuple(const Measures& e) {
  return py::make_tuple(e.kl, e.max_kl, e.surrogate, e.entropy);
}

CgParams cg_params(int iterations, double tol, double gain_tol, int factor_stride) {
  TRPO_CHECK(factor_stride >= 0, "a number of rows", factor_stride);
  return {iterations, static_cast<float>(tol), static_cast<float>(gain_tol), factor_stride};
}

void bind_stages(py::class_<Operator>& type) {
  type.def(
      "forward",
      [](Operator& op, uintptr_t params, int threads) {
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          core.forward(pointer<float>(params), call);
        });
      },
      py::kw_only(), py::arg("params"), py::arg("threads"));
  type.def(
      "jvp",
      [](Operator& op, uintptr_t v, uintptr_t tangent, int threads) {
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          core.jvp(pointer<const float>(v), pointer<float>(tangent), call);
        });
      },
      py::kw_only(), py::arg("v"), py::arg("tangent"), py::arg("threads"));
  type.def(
      "metric",
      [](Operator& op, uintptr_t tangent, uintptr_t out, int threads) {
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          core.metric(pointer<const float>(tangent), pointer<float>(out), call);
        });
      },
      py::kw_only(), py::arg("tangent"), py::arg("out"), py::arg("threads"));
  type.def(
      "vjp",
      [](Operator& op, uintptr_t delta, uintptr_t out, int threads) {
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          core.vjp(pointer<const float>(delta), pointer<float>(out), call);
        });
      },
      py::kw_only(), py::arg("delta"), py::arg("out"), py::arg("threads"));
  type.def(
      "factors",
      [](Operator& op, int stride, uintptr_t out, int threads) {
        TRPO_CHECK(stride > 0, "a number of rows", stride);
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          core.factors(stride, pointer<float>(out), call);
        });
      },
      py::kw_only(), py::arg("stride"), py::arg("out"), py::arg("threads"));
  type.def(
      "precondition",
      [](Operator& op, int stride, uintptr_t r, uintptr_t z, int threads) {
        TRPO_CHECK(stride > 0, "a number of rows", stride);
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          core.precondition(stride, pointer<const float>(r), pointer<float>(z), call);
        });
      },
      py::kw_only(), py::arg("stride"), py::arg("r"), py::arg("z"), py::arg("threads"));
}

// table [columns, kSolvedCount]
void solve(Operator& op, uintptr_t g, int64_t columns, int iterations, double tol, double gain_tol,
           int factor_stride, uintptr_t x, uintptr_t table, int threads) {
  std::vector<Solved> solved(static_cast<size_t>(columns));
  const CgParams cg = cg_params(iterations, tol, gain_tol, factor_stride);
  op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
    core.solve(pointer<const float>(g), columns, cg, pointer<float>(x), solved.data(), call);
  });
  double* to = pointer<double>(table);
  for (const Solved& s : solved) {
    to[kSolvedQuad] = s.quad;
    to[kSolvedResidual] = s.residual_norm;
    to[kSolvedIterations] = static_cast<double>(s.iterations);
    to[kSolvedFirstCurvature] = s.first_curvature;
    to[kSolvedLinearGain] = s.linear_gain;
    to[kSolvedRestarts] = static_cast<double>(s.restarts);
    to += kSolvedCount;
  }
}

void update(Operator& op, uintptr_t theta, uintptr_t stats, int iterations, double tol,
            double gain_tol, int factor_stride, double max_kl, double ratio, int steps, bool search,
            bool limit_max, double learning_rate, int threads) {
  const UpdateParams params{
      cg_params(iterations, tol, gain_tol, factor_stride),
      {static_cast<float>(max_kl), static_cast<float>(ratio), steps, false, search, limit_max},
      learning_rate};
  op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
    core.update(params, pointer<float>(theta), pointer<double>(stats), call);
  });
}

void bind_fused(py::class_<Operator>& type) {
  type.def(
      "fvp",
      [](Operator& op, uintptr_t v, int64_t columns, uintptr_t out, int threads) {
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          core.fvp(pointer<const float>(v), columns, pointer<float>(out), call);
        });
      },
      py::kw_only(), py::arg("v"), py::arg("columns"), py::arg("out"), py::arg("threads"));
  type.def("solve", &solve, py::kw_only(), py::arg("g"), py::arg("columns"), py::arg("iterations"),
           py::arg("tol"), py::arg("gain_tol"), py::arg("factor_stride"), py::arg("x"),
           py::arg("table"), py::arg("threads"));
  type.def(
      "gradient",
      [](Operator& op, uintptr_t g, int threads) {
        Measures at;
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          at = core.gradient(pointer<float>(g), call);
        });
        return as_tuple(at);
      },
      py::kw_only(), py::arg("g"), py::arg("threads"));
  type.def(
      "evaluate",
      [](Operator& op, uintptr_t theta, int threads) {
        Measures at;
        op.run(threads, [&](CpuOperator& core, const CallOptions& call) {
          at = core.evaluate(pointer<const float>(theta), call);
        });
        return as_tuple(at);
      },
      py::kw_only(), py::arg("theta"), py::arg("threads"));
  type.def(
      "bad_values",
      [](Operator& op, int threads) {
        bool bad = true;
        op.run(threads,
               [&](CpuOperator& core, const CallOptions& call) { bad = core.bad_values(call); });
        return bad;
      },
      py::kw_only(), py::arg("threads"));
  type.def("update", &update, py::kw_only(), py::arg("theta"), py::arg("stats"),
           py::arg("iterations"), py::arg("tol"), py::arg("gain_tol"), py::arg("factor_stride"),
           py::arg("max_kl"), py::arg("ratio"), py::arg("steps"), py::arg("search"),
           py::arg("limit_max"), py::arg("learning_rate"), py::arg("threads"));
  type.def_property_readonly("scratch_bytes", &Operator::scratch_bytes);
}

}  // namespace

void bind_cpu(py::module_& m) {
  py::class_<Operator> type(m, "CpuOperator");
  type.def(py::init(&make_operator), py::kw_only(), py::arg("params"), py::arg("reverse_kl"),
           py::arg("bf16_planes"));
  bind_stages(type);
  bind_fused(type);
  m.attr("families").attr("append")("cpu");
}

}  // namespace trpo_fast
