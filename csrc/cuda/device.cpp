// Reads devices and versions through the CUDA runtime; creates no context.
#include "cuda/device.h"

#include <cuda_runtime_api.h>

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

std::string explain(cudaError_t error) {
  const std::string said = cudaGetErrorString(error);
  switch (error) {
    case cudaErrorInsufficientDriver:  // what a machine without any driver answers, too
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
    probe.problem = explain(error);
    return probe;
  }
  if (count == 0) probe.problem = "no CUDA device: the driver lists none";
  for (int device = 0; device < count; ++device) probe.devices.push_back(describe(device));
  return probe;
}

}  // namespace trpo_fast::cuda
