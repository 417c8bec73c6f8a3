// The few names of the CUDA runtime that launchers use, for g++. Streams are in order and done on
// return; memory is the host's; the devices are the pretended ones of emulation::options. Every call
// passes through emulation::enter, which logs it and may make it fail.
#pragma once

using cudaStream_t = struct CUstream_st*;

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
  cudaErrorCooperativeLaunchTooLarge = 720,
};

enum cudaDeviceAttr : int {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaMemcpyKind : int {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};

namespace emulation {

inline cudaError_t record_error(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace emulation

inline cudaError_t cudaGetLastError() {
  const int error = emulation::last_error;
  emulation::last_error = cudaSuccess;
  return static_cast<cudaError_t>(error);
}
inline cudaError_t cudaPeekAtLastError() { return static_cast<cudaError_t>(emulation::last_error); }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : emulation::last_message();
}
inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorCooperativeLaunchTooLarge:
      return "cudaErrorCooperativeLaunchTooLarge";
  }
  return "unrecognized error code";
}

namespace emulation {

inline cudaError_t entered(const char* call, bool waits = false) {
  return record_error(static_cast<cudaError_t>(enter(call, waits)));
}
inline cudaError_t known(int device) {
  const bool known = device >= 0 && device < options.devices;
  return known ? cudaSuccess : record_error(cudaError_t{refuse(cudaErrorInvalidDevice)});
}

}  // namespace emulation

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulation::options.devices;
  return emulation::entered(__func__);
}
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (const cudaError_t error = emulation::entered(__func__)) return error;
  if (const cudaError_t error = emulation::known(device)) return error;
  *properties = {"emulated", size_t{16} << 30};
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return emulation::entered(__func__);
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = emulation::options.driver_version;
  return emulation::entered(__func__);
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = emulation::current_device;
  return emulation::entered(__func__);
}
inline cudaError_t cudaSetDevice(int device) {
  if (const cudaError_t error = emulation::entered(__func__)) return error;
  if (const cudaError_t error = emulation::known(device)) return error;
  emulation::current_device = device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (const cudaError_t error = emulation::entered(__func__)) return error;
  if (const cudaError_t error = emulation::known(device)) return error;
  const int before = emulation::current_device;
  emulation::current_device = device;  // for what follows from its options
  const int shared = static_cast<int>(emulation::shared_limit());
  emulation::current_device = before;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = emulation::options.device[device].multiprocessors;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 50 << 20;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = shared + 1024;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = shared;
      break;
    default:
      return emulation::record_error(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

template <class Kernel>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int threads,
                                                                 size_t shared_bytes) {
  if (const cudaError_t error = emulation::entered(__func__)) return error;
  *blocks = emulation::blocks_per_multiprocessor(threads, shared_bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (const cudaError_t error = emulation::entered(__func__)) return error;
  memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  if (const cudaError_t error = emulation::entered(__func__)) return error;
  memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return emulation::entered(__func__, /*waits=*/true);
}

enum cudaFuncAttribute : int { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (const cudaError_t error = emulation::entered(__func__)) return error;
  return emulation::record_error(
      static_cast<cudaError_t>(emulation::allow_shared(kernel, static_cast<size_t>(value))));
}

enum cudaLaunchAttributeID : int { cudaLaunchAttributeCooperative = 2 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 grid, block;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

// The kernel takes its arguments by value, as on the device.
template <class... Params, class... Args>
inline __attribute__((always_inline)) cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Params...), const Args&... args) {
  if (const cudaError_t error = emulation::entered("cudaLaunchKernelEx")) return error;
  using Call = std::tuple<void (*)(Params...), std::tuple<Params...>>;
  const Call call(kernel, std::tuple<Params...>(args...));
  const auto body = [](const void* pointer) {
    const Call& c = *static_cast<const Call*>(pointer);
    std::apply(std::get<0>(c), std::get<1>(c));
  };
  return emulation::record_error(static_cast<cudaError_t>(emulation::launch(
      config->grid, config->block, config->dynamicSmemBytes, config->numAttrs != 0,
      reinterpret_cast<const void*>(kernel), body, &call, sizeof call)));
}
