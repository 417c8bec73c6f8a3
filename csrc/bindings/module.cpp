// The extension module trpo_fast._C: takes raw pointers, sizes and a stream, asserts sizes, calls
// the cores.
//
// One bind_* function per family (bindings.h); a family of kernels names itself in the attribute `families`,
// which is how trpo_fast/_base/extension.py knows that this build has it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "cpu/runtime/features.h"
#include "shared/check.h"
#include "shared/params.h"
#ifdef TRPO_FAST_CUDA_ARCHS  // defined by the build that has the CUDA half
#define TRPO_FAST_WITH_CUDA
#include "cuda/device.h"
#else
#define TRPO_FAST_CUDA_ARCHS ""
#endif

namespace py = pybind11;

namespace trpo_fast {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

// ---- build and machine ----

py::dict build_info() {
  py::dict info;
  info["version"] = TRPO_FAST_VERSION;
  info["compiler"] = kCompiler;
  info["cuda_archs"] = TRPO_FAST_CUDA_ARCHS;  // empty: built without the CUDA half
  return info;
}

py::dict cuda_probe() {
  py::dict result;
  py::list devices;
#ifdef TRPO_FAST_WITH_CUDA
  cuda::CudaProbe probe;
  {
    py::gil_scoped_release release;  // the first call loads the driver
    probe = cuda::probe_cuda();
  }
  for (const cuda::CudaDevice& device : probe.devices) {
    py::dict entry;
    entry["name"] = device.name;
    entry["capability"] = py::make_tuple(device.major, device.minor);
    entry["multiprocessors"] = device.multiprocessors;
    entry["shared_memory_optin"] = device.shared_memory_optin;
    entry["memory"] = device.memory;
    devices.append(entry);
  }
  result["problem"] = probe.problem;
  result["driver_version"] = probe.driver_version;
  result["runtime_version"] = probe.runtime_version;
#else
  result["problem"] = "built without the CUDA half";
  result["driver_version"] = 0;
  result["runtime_version"] = 0;
#endif
  result["devices"] = devices;
  return result;
}

void bind_machine(py::module_& m) {
  m.def("build_info", &build_info, "Version, compiler and CUDA architectures of this build.");
  m.def(
      "detected_isa", [] { return cpu::isa_name(cpu::detected_isa()); },
      "Highest instruction set of this CPU.");
  m.def(
      "selected_isa", [] { return cpu::isa_name(cpu::selected_isa()); },
      "Instruction set in use (TRPO_FAST_ISA).");
  m.def("cuda_probe", &cuda_probe,
        "Devices and versions, or the sentence that says why there are none.");
}

}  // namespace
}  // namespace trpo_fast

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native half of trpo_fast; the public interface is the package.";
  m.attr("families") = py::list();
  trpo_fast::bind_machine(m);
  trpo_fast::bind_problem(m);
  trpo_fast::bind_cpu(m);
  trpo_fast::bind_act(m);
  trpo_fast::bind_critic(m);
  trpo_fast::bind_cuda(m);
}
