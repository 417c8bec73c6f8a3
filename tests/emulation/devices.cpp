// The pretended devices: which is current and what a kernel may ask for on each; a log of the
// runtime's calls, with failures planted among them; and launches that are recorded in place of
// being run, as stream capture does.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "fibers.h"

namespace emulation {

__thread int current_device;
__thread int last_error;

namespace {

std::mutex table;  // guards what follows

char calls[1 << 16];  // "name@device " of every call since the log was read
size_t calls_length;

struct Failure {
  char call[64];
  int error, skip;  // after so many calls of that name; error 0: none is planted
} failure;

struct Allowance {
  const void* kernel;
  size_t bytes[kMaxDevices];
} allowances[256];

struct Recorded {
  dim3 grid, block;
  size_t shared_bytes;
  bool cooperative;
  int device;
  Body body;
  void* argument;
} recorded[1024];
int recorded_count;
bool capturing;

void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  set_message(format, arguments);
  va_end(arguments);
}

// What the CUDA runtime says.
const char* sentence(int error) {
  switch (error) {
    case 2:
      return "out of memory";
    case 35:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case 100:
      return "no CUDA-capable device is detected";
    case 101:
      return "invalid device ordinal";
    case 209:
      return "no kernel image is available for execution on the device";
    case 719:
      return "unspecified launch failure";
    case 900:
      return "operation not permitted when stream is capturing";
    default:
      return "a planted error";
  }
}

Allowance* allowance_of(const void* kernel) {
  for (Allowance& a : allowances) {
    if (!a.kernel) a.kernel = kernel;
    if (a.kernel == kernel) return &a;
  }
  abort();  // more kernels than the core has
}

}  // namespace

int refuse(int error) {
  say("%s", sentence(error));
  return error;
}

int enter(const char* call, bool waits) {
  if (options.linger) usleep(options.linger);
  const std::lock_guard<std::mutex> guard(table);
  const size_t room = sizeof calls - calls_length;
  const int wrote = snprintf(calls + calls_length, room, "%s@%d ", call, current_device);
  if (wrote > 0 && size_t(wrote) < room) calls_length += size_t(wrote);
  if (failure.error && !strcmp(failure.call, call) && failure.skip-- == 0) {
    const int error = failure.error;
    failure.error = 0;
    return refuse(error);
  }
  return waits && capturing ? refuse(900) : 0;
}

const char* take_calls() {
  static char taken[sizeof calls];
  memcpy(taken, calls, calls_length);
  taken[calls_length] = 0;
  calls_length = 0;
  return taken;
}

void plant_failure(const char* call, int error, int skip) {
  snprintf(failure.call, sizeof failure.call, "%s", call);
  failure.error = error;
  failure.skip = skip;
}

int allow_shared(const void* kernel, size_t bytes) {
  if (bytes > shared_limit()) {
    say("launch: expected at most %zu bytes of shared memory, got %zu", shared_limit(), bytes);
    return kInvalidValue;
  }
  const std::lock_guard<std::mutex> guard(table);
  allowance_of(kernel)->bytes[current_device] = bytes;
  return kSuccess;
}

int launch(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, const void* kernel,
           Body body, const void* argument, size_t argument_bytes) {
  table.lock();
  const size_t allowed = allowance_of(kernel)->bytes[current_device];
  table.unlock();
  if (shared_bytes > kStaticShared && shared_bytes > allowed) {
    say("launch: %zu bytes of shared memory where the kernel may have %zu on device %d",
        shared_bytes, allowed > kStaticShared ? allowed : kStaticShared, current_device);
    return kInvalidValue;
  }
  if (!capturing) return run(grid, block, shared_bytes, cooperative, body, argument);
  if (const int error = check_launch(grid, block, shared_bytes, cooperative)) return error;
  if (recorded_count == int(sizeof recorded / sizeof *recorded)) return refuse(2);
  void* copy = malloc(argument_bytes);
  memcpy(copy, argument, argument_bytes);  // by value, as a kernel's parameters are
  recorded[recorded_count++] = {grid, block, shared_bytes, cooperative, current_device, body, copy};
  return kSuccess;
}

void capture(bool on) {
  capturing = on;
  if (!on) return;
  while (recorded_count) free(recorded[--recorded_count].argument);
}

int recorded_launches() { return recorded_count; }

int replay(int number) {
  const Recorded& r = recorded[number];
  const int before = current_device;
  current_device = r.device;
  const int error = run(r.grid, r.block, r.shared_bytes, r.cooperative, r.body, r.argument);
  current_device = before;
  return error;
}

}  // namespace emulation
