// Bindings of acting and of advantages on the device: raw addresses, sizes and a stream in.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/bindings.h"
#include "bindings/cuda.h"
#include "shared/check.h"

namespace py = pybind11;

namespace trpo_fast {
namespace {

using namespace cuda;

// A (policy, critic) pair on one device; what does not change between calls stays here.
class CudaAct {
 public:
  CudaAct(const NetShape& policy, const NetShape& critic, int device)
      : limits_(cuda_device_limits(device)) {
    TRPO_CHECK_EQ("critic: observations", critic.width[0], policy.width[0]);
    TRPO_CHECK_EQ("critic: outputs", critic.width[critic.maps], 1);
    call_.device = device;
    call_.policy = policy;
    call_.critic = critic;
    const ActPlan plan = make_act_plan(&policy, &critic, 1, limits_);
    if (plan.refusal) throw std::runtime_error(plan.refusal);
  }

  void normalise(uintptr_t shift, uintptr_t scale, float clip) {
    call_.shift = pointer<const float>(shift);
    call_.scale = pointer<const float>(scale);
    call_.clip = clip;
  }

  // theta 0: values alone.
  void act(uintptr_t theta, uintptr_t critic_theta, uintptr_t value_shift, uintptr_t value_scale,
           const ActAddresses& rows, uintptr_t stream) const {
    TRPO_CHECK(rows.count > 0, "at least one row", rows.count);
    ActCall c = call_;
    c.stream = pointer<void>(stream);
    c.plan = make_act_plan(theta ? &c.policy : nullptr, &c.critic, rows.count, limits_);
    c.theta = pointer<const float>(theta);
    c.critic_theta = pointer<const float>(critic_theta);
    set_act_rows(c.policy, rows, value_shift, value_scale, &c);
    check_cuda_status(cuda_api().act(c));
  }

 private:
  ActCall call_{};
  DeviceLimits limits_;
};

void gae(uintptr_t rewards, uintptr_t values, uintptr_t following, uintptr_t done,
         uintptr_t advantages, int64_t steps, int64_t envs, float gamma, float decay, int device,
         uintptr_t stream) {
  TRPO_CHECK(steps > 0 && envs > 0, "at least one step of one environment", steps * envs);
  const GaeCall call = {device,
                        pointer<void>(stream),
                        steps,
                        envs,
                        pointer<const float>(rewards),
                        pointer<const float>(values),
                        pointer<const float>(following),
                        pointer<const uint8_t>(done),
                        gamma,
                        decay,
                        pointer<float>(advantages)};
  check_cuda_status(cuda_api().gae(call));
}

}  // namespace

void bind_cuda_rollout(py::module_& m) {
  py::class_<CudaAct>(m, "CudaAct", "Policy and critic that act on one device.")
      .def(py::init<const NetShape&, const NetShape&, int>(), py::kw_only(), py::arg("policy"),
           py::arg("critic"), py::arg("device"))
      .def("normalise", &CudaAct::normalise, py::kw_only(), py::arg("shift"), py::arg("scale"),
           py::arg("clip"))
      .def("act", &CudaAct::act, py::kw_only(), py::arg("theta"), py::arg("critic_theta"),
           py::arg("value_shift"), py::arg("value_scale"), py::arg("rows"), py::arg("stream"));
  m.def("cuda_gae", &gae, py::kw_only(), py::arg("rewards"), py::arg("values"),
        py::arg("following"), py::arg("done"), py::arg("advantages"), py::arg("steps"),
        py::arg("envs"), py::arg("gamma"), py::arg("decay"), py::arg("device"), py::arg("stream"),
        "Advantages of a rollout [T, E] in one launch.");
}

}  // namespace trpo_fast
