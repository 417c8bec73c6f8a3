// The registry of cases that the stand-alone binaries run. A case is a function that launches
// kernels and checks what came back; it registers itself:
//
//   EMULATION_CASE(block_sum_of_odd_sizes) { ... CHECK_NEAR(got, expected, 1e-6); }
//
// EMULATION_BUG(name) { ... } plants a bug: it never runs unless asked for by name, and the tests
// say which tool must report what.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/prims/dev.h"

namespace emulation_cases {

struct Case {
  const char* name;
  void (*body)();
  bool planted;
  Case* next;

  Case(const char* name, void (*body)(), bool planted);
};

// Called around every case; the memory report records in between.
void watch_cases(void (*begin)(), void (*end)(const char* name));

// Prints the failure and marks the running case as failed.
void report(const char* file, int line, const std::string& text);

template <class... Args>
inline std::string format(const char* pattern, Args... args) {
  char text[512];
  snprintf(text, sizeof text, pattern, args...);
  return text;
}

// An array as the device allocates it: aligned to 256 bytes, its end known to ASan.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count, T value = {}) : count_(count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, count * sizeof(T) + (count == 0))) std::abort();
    data_ = static_cast<T*>(memory);
    for (T& element : *this) element = value;
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { std::free(data_); }

  T* data() { return data_; }
  size_t size() const { return count_; }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }
  T& operator[](size_t i) { return data_[i]; }

 private:
  T* data_;
  size_t count_;
};

}  // namespace emulation_cases

#define EMULATION_REGISTER(name, planted)                                    \
  static void case_##name();                                                 \
  static emulation_cases::Case register_##name(#name, case_##name, planted); \
  static void case_##name()
#define EMULATION_CASE(name) EMULATION_REGISTER(name, false)
#define EMULATION_BUG(name) EMULATION_REGISTER(name, true)

#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) emulation_cases::report(__FILE__, __LINE__, #condition); \
  } while (0)
#define CHECK_NEAR(got_value, expected_value, tolerance)                                        \
  do {                                                                                          \
    const double got_ = (got_value), expected_ = (expected_value);                              \
    if (!(std::fabs(got_ - expected_) <= (tolerance)))                                          \
      emulation_cases::report(                                                                  \
          __FILE__, __LINE__,                                                                   \
          emulation_cases::format("%s: got %.9g, expected %.9g", #got_value, got_, expected_)); \
  } while (0)
// A launch that must succeed: prints the emulator's message otherwise.
#define CHECK_LAUNCH(call)                                                    \
  do {                                                                        \
    if ((call) != cudaSuccess)                                                \
      emulation_cases::report(__FILE__, __LINE__, emulation::last_message()); \
  } while (0)
