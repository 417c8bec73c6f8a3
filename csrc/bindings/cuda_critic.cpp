// Bindings of the critic's fit on the device: raw addresses, sizes and a stream in.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/bindings.h"
#include "bindings/cuda.h"
#include "shared/check.h"

namespace py = pybind11;

namespace trpo_fast {
namespace {

using namespace cuda;

// A critic on its rows. Everything it points to stays alive on the Python side.
class CudaCritic {
 public:
  CudaCritic(const NetShape& net, int device, uintptr_t theta, uintptr_t obs, uintptr_t targets,
             uintptr_t weights, int64_t count, uintptr_t state, int grid)
      : limits_(cuda_device_limits(device)), grid_(grid) {
    TRPO_CHECK_EQ("critic: outputs", net.width[net.maps], 1);
    TRPO_CHECK(count > 0, "at least one row", count);
    call_.device = device;
    call_.net = net;
    call_.count = count;
    call_.obs = pointer<const float>(obs);
    call_.targets = pointer<const float>(targets);
    call_.weights = pointer<const float>(weights);
    call_.theta = pointer<float>(theta);
    call_.state = pointer<double>(state);
    if (const char* refusal = plan(1).refusal) throw std::runtime_error(refusal);
  }

  // Of a launch with so many rows between two grid barriers.
  int64_t scratch_bytes(int64_t pass_rows) const { return plan(pass_rows).scratch.total; }

  void adam(uintptr_t order, int epochs, int64_t minibatch, uintptr_t taken, float learning_rate,
            float beta1, float beta2, float eps, uintptr_t first, uintptr_t second,
            uintptr_t scratch, uintptr_t stream) const {
    TRPO_CHECK(minibatch > 0, "a positive minibatch", minibatch);
    CriticCall c = call(minibatch < call_.count ? minibatch : call_.count, scratch, stream);
    c.adam = {pointer<const int64_t>(order),
              epochs,
              minibatch,
              learning_rate,
              beta1,
              beta2,
              eps,
              pointer<int64_t>(taken),
              pointer<float>(first),
              pointer<float>(second)};
    check_cuda_status(cuda_api().critic_adam(c));
  }

  void gradient(uintptr_t out, uintptr_t scratch, uintptr_t stream) const {
    CriticCall c = call(call_.count, scratch, stream);
    c.gradient = pointer<float>(out);
    check_cuda_status(cuda_api().critic_gradient(c));
  }

  void search(uintptr_t direction, int backtracks, uintptr_t scratch, uintptr_t stream) const {
    CriticCall c = call(call_.count, scratch, stream);
    c.direction = pointer<const float>(direction);
    c.backtracks = backtracks;
    check_cuda_status(cuda_api().critic_search(c));
  }

 private:
  CriticPlan plan(int64_t pass_rows) const {
    return make_critic_plan(call_.net, pass_rows, grid_, limits_);
  }

  CriticCall call(int64_t pass_rows, uintptr_t scratch, uintptr_t stream) const {
    TRPO_CHECK(scratch && scratch % 256 == 0, "scratch aligned to 256 bytes", scratch);
    CriticCall c = call_;
    c.plan = plan(pass_rows);
    c.scratch = pointer<void>(scratch);
    c.stream = pointer<void>(stream);
    return c;
  }

  CriticCall call_{};
  DeviceLimits limits_;
  int grid_;
};

py::object critic_refusal(const NetShape& net, int device) {
  const char* said = make_critic_plan(net, 1, 0, cuda_device_limits(device)).refusal;
  return said ? py::object(py::str(said)) : py::object(py::none());
}

}  // namespace

void bind_cuda_critic(py::module_& m) {
  m.def("cuda_critic_refusal", &critic_refusal, py::kw_only(), py::arg("net"), py::arg("device"),
        "Why a net cannot be fitted on a device, or None.");
  py::class_<CudaCritic>(m, "CudaCritic", "A critic on its rows, on one device.")
      .def(py::init<const NetShape&, int, uintptr_t, uintptr_t, uintptr_t, uintptr_t, int64_t,
                    uintptr_t, int>(),
           py::kw_only(), py::arg("net"), py::arg("device"), py::arg("theta"), py::arg("obs"),
           py::arg("targets"), py::arg("weights"), py::arg("count"), py::arg("state"),
           py::arg("grid"))
      .def("scratch_bytes", &CudaCritic::scratch_bytes, py::kw_only(), py::arg("pass_rows"))
      .def("adam", &CudaCritic::adam, py::kw_only(), py::arg("order"), py::arg("epochs"),
           py::arg("minibatch"), py::arg("taken"), py::arg("learning_rate"), py::arg("beta1"),
           py::arg("beta2"), py::arg("eps"), py::arg("first"), py::arg("second"),
           py::arg("scratch"), py::arg("stream"))
      .def("gradient", &CudaCritic::gradient, py::kw_only(), py::arg("out"), py::arg("scratch"),
           py::arg("stream"))
      .def("search", &CudaCritic::search, py::kw_only(), py::arg("direction"),
           py::arg("backtracks"), py::arg("scratch"), py::arg("stream"));
}

}  // namespace trpo_fast
