// Bindings of acting: an object per (policy, critic) pair that keeps what does not change between
// calls, so that a call is a row of addresses.
#include "cpu/learner/act.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "cpu/kernels/dispatch.h"
#include "shared/check.h"

namespace py = pybind11;

namespace trpo_fast {

void set_act_rows(const NetShape& policy, const ActAddresses& at, uintptr_t value_shift,
                  uintptr_t value_scale, ActRows* rows) {
  rows->value_shift = pointer<const float>(value_shift);
  rows->value_scale = pointer<const float>(value_scale);
  rows->count = at.count;
  rows->obs = pointer<const float>(at.obs);
  rows->seen = pointer<float>(at.seen);
  rows->mask = pointer<const uint8_t>(at.mask);
  rows->noise = pointer<const float>(at.noise);
  if (policy.factors > 0) {
    rows->choices = pointer<int64_t>(at.actions);
  } else {
    rows->actions = pointer<float>(at.actions);
  }
  rows->log_probs = pointer<float>(at.log_probs);
  rows->values = pointer<float>(at.values);
}

namespace {

constexpr int64_t kRowsWithGil = 64;  // fewer rows take less time than handing the GIL over

class ActBinding {
 public:
  ActBinding(const NetShape& policy, const NetShape& critic)
      : policy_(policy), critic_(critic), kernels_(cpu::kernels_for(cpu::selected_isa())) {
    TRPO_CHECK_EQ("critic: observations", critic.width[0], policy.width[0]);
    TRPO_CHECK_EQ("critic: outputs", critic.width[critic.maps], 1);
  }

  void normalise(uintptr_t shift, uintptr_t scale, float clip) {
    shift_ = shift;
    scale_ = scale;
    clip_ = clip;
  }

  // theta 0: values alone.
  void act(uintptr_t theta, uintptr_t critic_theta, uintptr_t value_shift, uintptr_t value_scale,
           const ActAddresses& rows, int threads) const {
    cpu::ActParams p{};
    p.policy = {policy_, pointer<const float>(theta)};
    p.critic = {critic_, pointer<const float>(critic_theta)};
    p.shift = pointer<const float>(shift_);
    p.scale = pointer<const float>(scale_);
    p.clip = clip_;
    set_act_rows(policy_, rows, value_shift, value_scale, &p);
    if (rows.count < kRowsWithGil) return cpu::act(p, kernels_, threads);
    py::gil_scoped_release release;
    cpu::act(p, kernels_, threads);
  }

 private:
  NetShape policy_, critic_;
  const cpu::CpuKernels& kernels_;
  uintptr_t shift_ = 0, scale_ = 0;
  float clip_ = 0.0f;
};

}  // namespace

void bind_act(py::module_& m) {
  py::class_<ActAddresses>(m, "ActRows", "The tensors of the rows that an actor reads and writes.")
      .def(py::init<int64_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                    uintptr_t>(),
           py::kw_only(), py::arg("count"), py::arg("obs"), py::arg("seen") = 0,
           py::arg("mask") = 0, py::arg("noise") = 0, py::arg("actions") = 0,
           py::arg("log_probs") = 0, py::arg("values"));
  py::class_<ActBinding>(m, "Act", "Policy and critic that act on the CPU.")
      .def(py::init<const NetShape&, const NetShape&>(), py::kw_only(), py::arg("policy"),
           py::arg("critic"))
      .def("normalise", &ActBinding::normalise, py::kw_only(), py::arg("shift"), py::arg("scale"),
           py::arg("clip"))
      .def("act", &ActBinding::act, py::kw_only(), py::arg("theta"), py::arg("critic_theta"),
           py::arg("value_shift"), py::arg("value_scale"), py::arg("rows"), py::arg("threads"));
  m.attr("families").cast<py::list>().append("act");
}

}  // namespace trpo_fast
