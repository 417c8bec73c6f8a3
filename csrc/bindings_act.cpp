// Bindings of acting: an object per (policy, critic) pair that keeps what does not change between
// calls, so that a call is a row of addresses.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "check.h"
#include "cpu/act.h"
#include "cpu/dispatch.h"

namespace py = pybind11;

namespace trpo_fast {

void set_act_rows(const NetShape& policy, const ActAddresses& at, int64_t count, ActRows* rows) {
  rows->value_shift = pointer<const float>(at.value_shift);
  rows->value_scale = pointer<const float>(at.value_scale);
  rows->count = count;
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

  void act(uintptr_t theta, uintptr_t critic_theta, uintptr_t value_shift, uintptr_t value_scale,
           uintptr_t obs, uintptr_t seen, uintptr_t mask, uintptr_t noise, uintptr_t actions,
           uintptr_t log_probs, uintptr_t values, int64_t count, int threads) const {
    cpu::ActParams p{};
    p.policy = {policy_, pointer<const float>(theta)};
    p.critic = {critic_, pointer<const float>(critic_theta)};
    p.shift = pointer<const float>(shift_);
    p.scale = pointer<const float>(scale_);
    p.clip = clip_;
    set_act_rows(policy_,
                 {value_shift, value_scale, obs, seen, mask, noise, actions, log_probs, values},
                 count, &p);
    if (count < kRowsWithGil) return cpu::act(p, kernels_, threads);
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
  py::class_<NetShape>(m, "NetShape")
      .def(py::init(&net_shape), py::arg("widths"), py::arg("activation"), py::arg("head"),
           py::arg("nvec"));
  py::class_<ActBinding>(m, "Act")
      .def(py::init<const NetShape&, const NetShape&>())
      .def("normalise", &ActBinding::normalise)
      .def("act", &ActBinding::act);
  m.attr("families").cast<py::list>().append("act");
}

}  // namespace trpo_fast
