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

TRPO_EXPORT void trpo_emulation_device(int multiprocessors, uint64_t shared_limit) {
  emulation::options.multiprocessors = multiprocessors;
  emulation::options.shared_limit = shared_limit;
}

// counters: eight words in the order of emulation::Counters, since the last reset.
TRPO_EXPORT void trpo_emulation_counters(uint64_t* counters, int reset) {
  memcpy(counters, &emulation::counters, sizeof emulation::counters);
  if (reset) emulation::counters = {};
}

TRPO_EXPORT const char* trpo_emulation_message() { return emulation::last_message(); }

}  // extern "C"
