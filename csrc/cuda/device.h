// What the CUDA runtime says of the machine. Built only with the CUDA half; needs no driver to be
// present.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace trpo_fast::cuda {

struct CudaDevice {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  int64_t shared_memory_optin;  // bytes one block may ask for
  int64_t memory;               // bytes
};

struct CudaProbe {
  std::string problem;  // a sentence, empty when there is at least one device
  int driver_version;   // 1000 * major + 10 * minor, 0 without a driver
  int runtime_version;
  std::vector<CudaDevice> devices;
};

CudaProbe probe_cuda();

}  // namespace trpo_fast::cuda
