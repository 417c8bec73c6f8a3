// Bindings of the critic's fit: raw addresses and sizes in, the loss out.
#include "cpu/learner/critic.h"

#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "cpu/kernels/dispatch.h"
#include "shared/check.h"

namespace py = pybind11;

namespace trpo_fast {
namespace {

using namespace cpu;

CriticBatch batch_of(const NetShape& net, uintptr_t obs, uintptr_t targets, uintptr_t weights,
                     int64_t count) {
  TRPO_CHECK_EQ("critic: outputs", net.width[net.maps], 1);
  TRPO_CHECK(count > 0, "at least one row", count);
  return {count, pointer<const float>(obs), pointer<const float>(targets),
          pointer<const float>(weights)};
}

void check_signals() {
  py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

double loss(const NetShape& net, uintptr_t theta, uintptr_t gradient, uintptr_t obs,
            uintptr_t targets, uintptr_t weights, int64_t count, int threads) {
  const CriticBatch batch = batch_of(net, obs, targets, weights, count);
  const CpuKernels& kernels = kernels_for(selected_isa());
  py::gil_scoped_release release;
  return CriticFit(net, batch, kernels)
      .loss(pointer<const float>(theta), pointer<float>(gradient), threads);
}

double adam(const NetShape& net, uintptr_t theta, uintptr_t first, uintptr_t second,
            uintptr_t order, int epochs, int64_t minibatch, int64_t steps, float learning_rate,
            float beta1, float beta2, float eps, uintptr_t obs, uintptr_t targets,
            uintptr_t weights, int64_t count, int threads) {
  TRPO_CHECK(minibatch > 0, "a positive minibatch", minibatch);
  const CriticBatch batch = batch_of(net, obs, targets, weights, count);
  const AdamParams params = {
      pointer<const int64_t>(order), epochs, minibatch, steps, learning_rate, beta1, beta2, eps};
  const CpuKernels& kernels = kernels_for(selected_isa());
  py::gil_scoped_release release;
  return CriticFit(net, batch, kernels)
      .adam(params, pointer<float>(theta), pointer<float>(first), pointer<float>(second), threads,
            check_signals);
}

}  // namespace

void bind_critic(py::module_& m) {
  m.def("critic_loss", &loss, py::kw_only(), py::arg("net"), py::arg("theta"), py::arg("gradient"),
        py::arg("obs"), py::arg("targets"), py::arg("weights"), py::arg("count"),
        py::arg("threads"), "The loss on every row, and its gradient unless that is 0.");
  m.def("critic_adam", &adam, py::kw_only(), py::arg("net"), py::arg("theta"), py::arg("first"),
        py::arg("second"), py::arg("order"), py::arg("epochs"), py::arg("minibatch"),
        py::arg("steps"), py::arg("learning_rate"), py::arg("beta1"), py::arg("beta2"),
        py::arg("eps"), py::arg("obs"), py::arg("targets"), py::arg("weights"), py::arg("count"),
        py::arg("threads"), "Adam over given orders of the rows; the last epoch's mean loss.");
  m.attr("families").cast<py::list>().append("critic");
}

}  // namespace trpo_fast
