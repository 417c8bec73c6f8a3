// Reads devices and versions through the CUDA runtime; creates no context.
#include "cuda/device.h"
#include "cuda/prims/dev.h"

namespace trpo_fast::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, device) != cudaSuccess) cudaGetLastError();
  return value;
}

CudaDevice describe(int device) {
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) cudaGetLastError();
  return {properties.name,
          attribute(cudaDevAttrComputeCapabilityMajor, device),
          attribute(cudaDevAttrComputeCapabilityMinor, device),
          attribute(cudaDevAttrMultiProcessorCount, device),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          static_cast<int64_t>(properties.totalGlobalMem)};
}

std::string cuda_name(int version) {  // 13000 -> CUDA 13, 12040 -> CUDA 12.4
  const int minor = version % 1000 / 10;
  const std::string name = "CUDA " + std::to_string(version / 1000);
  return minor ? name + "." + std::to_string(minor) : name;
}

// The first driver of a runtime's major version serves all of its minor versions.
std::string driver_name(int runtime_version) {
  switch (runtime_version / 1000) {
    case 12:
      return "R525 / CUDA 12";
    case 13:
      return "R580 / CUDA 13";
    default:
      return cuda_name(runtime_version / 1000 * 1000);
  }
}

std::string explain(cudaError_t error, const CudaProbe& probe) {
  const std::string said = cudaGetErrorString(error);
  switch (error) {
    case cudaErrorInsufficientDriver:
      if (probe.driver_version == 0) return "no CUDA device: this machine has no CUDA driver";
      return "driver too old: needs " + driver_name(probe.runtime_version) + ", got " +
             cuda_name(probe.driver_version);
    case cudaErrorNoDevice:
      return "no CUDA device: " + said;
    default:
      return "the CUDA runtime failed: " + said;
  }
}

}  // namespace

CudaProbe probe_cuda() {
  CudaProbe probe{};
  cudaRuntimeGetVersion(&probe.runtime_version);
  cudaDriverGetVersion(&probe.driver_version);
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    cudaGetLastError();  // the error must not surface in a later, unrelated call
    probe.problem = explain(error, probe);
    return probe;
  }
  if (count == 0) probe.problem = "no CUDA device: the driver lists none";
  for (int device = 0; device < count; ++device) probe.devices.push_back(describe(device));
  return probe;
}

}  // namespace trpo_fast::cuda
