// The CUDA core's part of trpo_fast._C. It calls the kernels through the table of csrc/cuda/api.h:
// the one linked into this module, or that of the emulation library, whichever is connected.
#include "bindings/cuda.h"

#include <dlfcn.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "bindings/bindings.h"
#include "shared/check.h"

namespace py = pybind11;

namespace trpo_fast {

using namespace cuda;

namespace {

const CudaApi* connected = nullptr;

// Connects the table of a library or, without a path, the module's own.
void connect(const std::string& path) {
  if (path.empty()) {
#ifdef TRPO_FAST_WITH_CUDA
    connected = trpo_fast_cuda_api();
    return;
#else
    throw std::runtime_error("built without CUDA kernels");
#endif
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  using Entry = const CudaApi* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "trpo_fast_cuda_api"));
  if (!entry) throw std::runtime_error(path + " has no trpo_fast_cuda_api");
  connected = entry();
}

}  // namespace

const CudaApi& cuda_api() {
  if (!connected) throw std::logic_error("cuda_connect has not been called");
  return *connected;
}

namespace {

// An error that stays: the device has ended some launch, and with it all that the process asks of it.
struct CudaFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// In the order of cudaError_t: ECC, illegal address, timeout, assert, and 714 to 719, from a broken stack to
// an unspecified failure of a launch.
bool is_fault(int error) {
  return error == 214 || error == 700 || error == 702 || error == 710 ||
         (error >= 714 && error <= 719);
}

}  // namespace

void check_cuda_status(int error) {
  if (!error) return;
  const char* sentence = cuda_api().error_string(error);
  if (is_fault(error)) throw CudaFault(sentence);
  throw std::runtime_error(sentence);
}

DeviceLimits cuda_device_limits(int device) {
  DeviceLimits limits{};
  check_cuda_status(cuda_api().device_limits(device, &limits));
  return limits;
}

namespace {

const char* path_name(Path path) {
  switch (path) {
    case Path::kResident:
      return "resident";
    case Path::kStreamed:
      return "streamed";
    default:
      return "none";
  }
}

constexpr const char* kPrecisions[] = {"fp32", "fp16x3"};  // in the order of enum Precision

py::dict plan_dict(const Plan& p) {
  py::dict d;
  d["path"] = path_name(p.path);
  d["precision"] = kPrecisions[static_cast<int>(p.precision)];
  d["refusal"] = p.refusal ? py::object(py::str(p.refusal)) : py::object(py::none());
  d["tile_rows"] = kRowGroups * p.row_step;
  d["register_tiles"] = p.slots;
  d["threads"] = kThreads;
  d["grid"] = p.grid;
  d["tiles"] = p.fvp_tiles;
  d["resident_tiles"] = p.resident_tiles;
  d["residual_on_chip"] = p.residual_on_chip;
  d["cached"] = p.cached;
  d["search_batch"] = p.search_batch;
  d["shared_bytes"] = p.shared_bytes;
  d["scratch_bytes"] = p.scratch.total;
  return d;
}

Precision precision_of(const std::string& name) {
  int i = 0;
  while (i < 2 && name != kPrecisions[i]) ++i;
  TRPO_CHECK(i < 2, "a precision of the CUDA core", name);
  return static_cast<Precision>(i);
}

Plan cuda_plan(const NetShape& net, int64_t rows, int64_t fvp_count, int64_t chunk_rows,
               int64_t group_size, const std::string& precision, int grid, int multiprocessors,
               int shared_bytes, int arch) {
  const bool subset = fvp_count != 0;
  const PlanRequest request = {net,        rows, subset ? fvp_count : rows, subset, chunk_rows,
                               group_size, grid, precision_of(precision)};
  return make_plan(request, {multiprocessors, shared_bytes, arch});
}

py::dict cuda_predicted(const NetShape& net, const Plan& plan) {
  const Predicted us = predicted(net, plan);
  py::dict d;
  d["start_us"] = us.start_us;
  d["product_us"] = us.product_us;
  return d;
}

py::dict cuda_limits(int device) {
  const DeviceLimits limits = cuda_device_limits(device);
  py::dict d;
  d["multiprocessors"] = limits.multiprocessors;
  d["shared_bytes"] = limits.shared_bytes;
  d["arch"] = limits.arch;
  return d;
}

int cuda_room(const NetShape& net, const Plan& plan, int device) {
  int blocks = 0;
  check_cuda_status(cuda_api().room(device, net, plan, &blocks));
  return blocks;
}

// A policy at one theta on its rows. Everything it points to stays alive on the Python side.
class CudaOperator {
 public:
  CudaOperator(const FvpParams& params, const Plan& plan, bool reverse_kl, int device,
               bool atomics) {
    call_.device = device;
    call_.fvp = params;
    call_.atomics = atomics;
    call_.search.reverse_kl = reverse_kl;
    call_.columns = 1;
    call_.plan = plan;
    if (call_.plan.path == Path::kNone) throw std::runtime_error(call_.plan.refusal);
  }

  int64_t scratch(int factor_stride) const {
    return scratch_bytes(call_.plan, call_.fvp, factor_stride);
  }

  ResidentCall call(uintptr_t scratch, uintptr_t stream) const {
    ResidentCall c = call_;
    TRPO_CHECK(scratch && scratch % 256 == 0, "scratch aligned to 256 bytes", scratch);
    c.scratch = pointer<void>(scratch);
    c.stream = pointer<void>(stream);
    return c;
  }

 private:
  ResidentCall call_{};
};

void launch(int (*entry)(const ResidentCall&), const ResidentCall& call) {
  int error = 0;
  {
    py::gil_scoped_release release;
    error = entry(call);
  }
  check_cuda_status(error);
}

void operator_fvp(const CudaOperator& op, uintptr_t v, uintptr_t out, int columns,
                  uintptr_t scratch, uintptr_t stream) {
  ResidentCall c = op.call(scratch, stream);
  c.v = pointer<const float>(v);
  c.out = pointer<float>(out);
  c.columns = columns;
  launch(cuda_api().fvp, c);
}

void operator_solve(const CudaOperator& op, uintptr_t g, uintptr_t x, uintptr_t stats, int columns,
                    int iterations, float tol, float gain_tol, int factor_stride, uintptr_t scratch,
                    uintptr_t stream) {
  ResidentCall c = op.call(scratch, stream);
  c.v = pointer<const float>(g);
  c.out = pointer<float>(x);
  c.stats = pointer<double>(stats);
  c.columns = columns;
  c.cg = {iterations, tol, gain_tol, factor_stride};
  launch(cuda_api().solve, c);
}

void operator_gradient(const CudaOperator& op, uintptr_t g, uintptr_t stats, uintptr_t scratch,
                       uintptr_t stream) {
  ResidentCall c = op.call(scratch, stream);
  c.out = pointer<float>(g);
  c.stats = pointer<double>(stats);
  launch(cuda_api().gradient, c);
}

void operator_evaluate(const CudaOperator& op, uintptr_t theta, uintptr_t stats, uintptr_t scratch,
                       uintptr_t stream) {
  ResidentCall c = op.call(scratch, stream);
  c.v = pointer<const float>(theta);
  c.stats = pointer<double>(stats);
  launch(cuda_api().evaluate, c);
}

void operator_update(const CudaOperator& op, uintptr_t theta, uintptr_t stats, int iterations,
                     float tol, float gain_tol, int factor_stride, float max_kl, float ratio,
                     int steps, bool search, bool limit_max, float learning_rate, uintptr_t scratch,
                     uintptr_t stream) {
  ResidentCall c = op.call(scratch, stream);
  c.theta_out = pointer<float>(theta);
  c.stats = pointer<double>(stats);
  c.cg = {iterations, tol, gain_tol, factor_stride};
  c.search = {max_kl, ratio, steps, c.search.reverse_kl, search, limit_max};
  c.learning_rate = learning_rate;
  launch(cuda_api().update, c);
}

}  // namespace

void bind_cuda(py::module_& m) {
  m.attr("families").cast<py::list>().append("cuda");
  py::register_exception<CudaFault>(m, "CudaFault", PyExc_RuntimeError);
  m.def("cuda_connect", &connect, py::arg("path"),
        "Use the kernels of this module (empty path) or of an emulation library.");
  m.def("cuda_plan", &cuda_plan, py::kw_only(), py::arg("net"), py::arg("rows"),
        py::arg("fvp_count"), py::arg("chunk_rows"), py::arg("group_size"), py::arg("precision"),
        py::arg("grid"), py::arg("multiprocessors"), py::arg("shared_bytes"), py::arg("arch"),
        "What config.h chooses for these shapes on such a device; needs no GPU.");
  m.def("cuda_limits", &cuda_limits, py::arg("device"),
        "What cuda_plan wants to know of a device.");
  py::class_<Plan>(m, "CudaPlan", "How the kernels would run one shape on one device.")
      .def("describe", &plan_dict)
      .def_property_readonly("grid", [](const Plan& p) { return p.grid; })
      .def_property_readonly("refusal", [](const Plan& p) { return p.refusal; });
  m.def("cuda_predicted", &cuda_predicted, py::kw_only(), py::arg("net"), py::arg("plan"),
        "Microseconds that a plan's solve should take on an H200: predicted, not measured.");
  m.def("cuda_room", &cuda_room, py::kw_only(), py::arg("net"), py::arg("plan"), py::arg("device"),
        "How many blocks of a plan's kernel the device runs at once.");
  py::class_<CudaOperator>(m, "CudaOperator", "A policy at one theta on its rows, on one device.")
      .def(py::init<const FvpParams&, const Plan&, bool, int, bool>(), py::kw_only(),
           py::arg("params"), py::arg("plan"), py::arg("reverse_kl"), py::arg("device"),
           py::arg("atomics"))
      .def("fvp", &operator_fvp, py::kw_only(), py::arg("v"), py::arg("out"), py::arg("columns"),
           py::arg("scratch"), py::arg("stream"))
      .def("solve", &operator_solve, py::kw_only(), py::arg("g"), py::arg("x"), py::arg("stats"),
           py::arg("columns"), py::arg("iterations"), py::arg("tol"), py::arg("gain_tol"),
           py::arg("factor_stride"), py::arg("scratch"), py::arg("stream"))
      .def("gradient", &operator_gradient, py::kw_only(), py::arg("g"), py::arg("stats"),
           py::arg("scratch"), py::arg("stream"))
      .def("evaluate", &operator_evaluate, py::kw_only(), py::arg("theta"), py::arg("stats"),
           py::arg("scratch"), py::arg("stream"))
      .def("update", &operator_update, py::kw_only(), py::arg("theta"), py::arg("stats"),
           py::arg("iterations"), py::arg("tol"), py::arg("gain_tol"), py::arg("factor_stride"),
           py::arg("max_kl"), py::arg("ratio"), py::arg("steps"), py::arg("search"),
           py::arg("limit_max"), py::arg("learning_rate"), py::arg("scratch"), py::arg("stream"))
      .def("scratch_bytes", &CudaOperator::scratch, py::kw_only(), py::arg("factor_stride"),
           "What a call needs, with the factors of one of so many rows (0: without).");
  bind_cuda_rollout(m);
  bind_cuda_critic(m);
}

}  // namespace trpo_fast
