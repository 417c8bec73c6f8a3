// What the probe says of a machine: devices, no driver, one that is too old, none that works.
#include "cases.h"
#include "cuda/device.h"

using namespace trpo_fast::cuda;

namespace {

std::string problem_of(int error, int driver_version) {
  emulation::options.driver_version = driver_version;
  emulation::plant_failure("cudaGetDeviceCount", error, 0);
  const CudaProbe probe = probe_cuda();
  emulation::options.driver_version = 13000;
  CHECK(probe.devices.empty() && emulation::last_error == 0);  // nothing for a later call to find
  return probe.problem;
}

EMULATION_CASE(kernel_probe_lists_devices) {
  const CudaProbe probe = probe_cuda();
  CHECK(probe.problem.empty() && probe.driver_version == 13000 && probe.runtime_version == 13000);
  CHECK(probe.devices.size() == 1 && probe.devices[0].major == 9 && probe.devices[0].minor == 0);
  CHECK(probe.devices[0].name == "emulated" && probe.devices[0].multiprocessors == 4);
}

EMULATION_CASE(kernel_probe_says_what_is_missing) {
  CHECK(problem_of(35, 12040) == "driver too old: needs R580 / CUDA 13, got CUDA 12.4");
  CHECK(problem_of(35, 12000) == "driver too old: needs R580 / CUDA 13, got CUDA 12");
  CHECK(problem_of(35, 0) == "no CUDA device: this machine has no CUDA driver");
  CHECK(problem_of(100, 13000) == "no CUDA device: no CUDA-capable device is detected");
  CHECK(problem_of(2, 13000) == "the CUDA runtime failed: out of memory");
}

}  // namespace
