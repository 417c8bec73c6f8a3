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

namespace {

constexpr int64_t kRowsWithGil = 64;  // fewer rows take less time than handing the GIL over

class ActBinding {
 public:
  ActBinding(const NetShape& policy, const NetShape& critic)
      : policy_(policy), critic_(critic), kernels_(kernels_for(selected_isa())) {
    TRPO_CHECK_EQ("critic: observations", critic.width[0], policy.width[0]);
    TRPO_CHECK_EQ("critic: outputs", critic.width[critic.maps], 1);
  }

  void normalise(uintptr_t shift, uintptr_t scale, float clip) {
    shift_ = shift;
    scale_ = scale;
    clip_ = clip;
  }

  // Addresses; zero stands for "absent" where ActParams allows null.
  void act(uintptr_t theta, uintptr_t critic_theta, uintptr_t value_shift, uintptr_t value_scale,
           uintptr_t obs, uintptr_t seen, uintptr_t mask, uintptr_t noise, uintptr_t actions,
           uintptr_t log_probs, uintptr_t values, int64_t count, int threads) const {
    ActParams p{};
    p.policy = {policy_, pointer<const float>(theta)};
    p.critic = {critic_, pointer<const float>(critic_theta)};
    p.value_shift = pointer<const float>(value_shift);
    p.value_scale = pointer<const float>(value_scale);
    p.count = count;
    p.obs = pointer<const float>(obs);
    p.shift = pointer<const float>(shift_);
    p.scale = pointer<const float>(scale_);
    p.clip = clip_;
    p.seen = pointer<float>(seen);
    p.mask = pointer<const uint8_t>(mask);
    p.noise = pointer<const float>(noise);
    if (policy_.factors > 0) {
      p.choices = pointer<int64_t>(actions);
    } else {
      p.actions = pointer<float>(actions);
    }
    p.log_probs = pointer<float>(log_probs);
    p.values = pointer<float>(values);
    if (count < kRowsWithGil) return trpo_fast::act(p, kernels_, threads);
    py::gil_scoped_release release;
    trpo_fast::act(p, kernels_, threads);
  }

 private:
  NetShape policy_, critic_;
  const CpuKernels& kernels_;
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
