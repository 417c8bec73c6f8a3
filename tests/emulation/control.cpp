// C functions by which tests steer and watch the emulator of a shared library (ctypes).
#include <cstring>

#include "runtime.h"

extern "C" {

#define TRPO_EXPORT __attribute__((visibility("default")))

// order: 0 first in first out, 1 last in first out, 2 random by seed.
TRPO_EXPORT void trpo_emulation_schedule(int order, uint64_t seed, float preempt) {
  emulation::options.order = static_cast<emulation::Order>(order);
  emulation::options.seed = seed;
  emulation::options.preempt = preempt;
}

TRPO_EXPORT void trpo_emulation_device(int device, int multiprocessors, uint64_t shared_limit) {
  emulation::options.device[device] = {multiprocessors, shared_limit};
}
// What limits how many blocks are resident at once beside the multiprocessors: as PretendedDevice says.
TRPO_EXPORT void trpo_emulation_room(int device, int occupancy, int at_once) {
  emulation::options.device[device].occupancy = occupancy;
  emulation::options.device[device].at_once = at_once;
}
TRPO_EXPORT void trpo_emulation_linger(int microseconds) {
  emulation::options.linger = microseconds;
}
TRPO_EXPORT void trpo_emulation_devices(int count) { emulation::options.devices = count; }
TRPO_EXPORT int trpo_emulation_current_device() { return emulation::current_device; }
// What a call has left for cudaGetLastError.
TRPO_EXPORT int trpo_emulation_last_error() { return emulation::last_error; }

// The CUDA runtime's calls since the last time, "name@device " each.
TRPO_EXPORT const char* trpo_emulation_calls() { return emulation::take_calls(); }
// The call of that name after `skip` others of it fails, once.
TRPO_EXPORT void trpo_emulation_fail(const char* call, int error, int skip) {
  emulation::plant_failure(call, error, skip);
}

// Between the two, launches are recorded and not run, and calls that wait are errors.
TRPO_EXPORT void trpo_emulation_capture(int on) { emulation::capture(on); }
TRPO_EXPORT int trpo_emulation_recorded() { return emulation::recorded_launches(); }
TRPO_EXPORT int trpo_emulation_replay(int number) { return emulation::replay(number); }

// counters: eight words in the order of emulation::Counters, since the last reset.
TRPO_EXPORT void trpo_emulation_counters(uint64_t* counters, int reset) {
  memcpy(counters, &emulation::counters, sizeof emulation::counters);
  if (reset) emulation::counters = {};
}

TRPO_EXPORT const char* trpo_emulation_message() { return emulation::last_message(); }

}  // extern "C"
