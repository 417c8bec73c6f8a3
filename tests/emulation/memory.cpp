// How kernels use memory, per instruction: kernels are compiled with -fsanitize=thread but linked
// with the callbacks below instead of TSan's runtime, so every access arrives with its address.
// The n-th executions of one instruction by the lanes of a warp are one request. Shared memory: a
// request takes as many wavefronts as the fullest of 32 four-byte banks has distinct words. Global
// memory: as many sectors of 32 bytes as it touches. Prints one line per instruction and case:
//
//   memory S|G <case> <address> <requests> <wavefronts or sectors> <fewest possible>
#include <pthread.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "cases.h"

extern "C" char __executable_start, _end;

namespace {

struct Access {
  uintptr_t address;
  int lane;
};

struct Request {  // ordered so that a map holds them by instruction
  uintptr_t instruction;
  int size, warp;
  unsigned execution;
  bool operator<(const Request& o) const {
    return std::tie(instruction, size, warp, execution) <
           std::tie(o.instruction, o.size, o.warp, o.execution);
  }
};

struct Cost {
  long requests = 0, parts = 0, fewest = 0;
};

std::map<Request, std::vector<Access>> shared_requests, global_requests;
// By thread of the block, which keeps its number from launch to launch, and instruction.
std::map<std::pair<int, uintptr_t>, unsigned> executions;
bool recording;
const char *stack_low, *stack_high;  // of the launching thread: kernel arguments

void find_stack() {
  pthread_attr_t attributes;
  void* low;
  size_t bytes;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &low, &bytes);
  pthread_attr_destroy(&attributes);
  stack_low = static_cast<const char*>(low);
  stack_high = stack_low + bytes;
}

// Block 0 stands for all: blocks run the same code.
void record(const void* pointer, int size, const void* instruction) {
  const emulation::Thread* me = emulation::current;
  if (!recording || !me || me->block_index.x || me->block_index.y || me->block_index.z) return;
  const auto* byte = static_cast<const char*>(pointer);
  const auto* shared = reinterpret_cast<const char*>(me->shared);
  const bool in_shared = byte >= shared && byte < shared + me->shared_bytes;
  if (!in_shared && (emulation::is_private(byte) || (byte >= stack_low && byte < stack_high) ||
                     (byte >= &__executable_start && byte < &_end)))
    return;
  const auto at = reinterpret_cast<uintptr_t>(instruction);
  const Request request{at, size, me->warp, executions[{me->warp * 32 + me->lane, at}]++};
  auto& requests = in_shared ? shared_requests : global_requests;
  requests[request].push_back({reinterpret_cast<uintptr_t>(pointer), me->lane});
}

// Whether every active lane n wants what lane n ^ bit wants.
bool paired(const std::vector<Access>& accesses, int bit) {
  uintptr_t wanted[32] = {};
  for (const Access& a : accesses) wanted[a.lane] = a.address;
  return std::all_of(accesses.begin(), accesses.end(), [&](const Access& a) {
    const uintptr_t other = wanted[a.lane ^ bit];
    return other == 0 || other == a.address;
  });
}

// Eight- and sixteen-byte accesses are served by half and quarter warps; by twice as many lanes at a
// time where pairs of them, one or two apart, want the same (counted on sm_86 and sm_90).
void add_wavefronts(const std::vector<Access>& accesses, int size, Cost* cost) {
  int lanes = size <= 4 ? 32 : 128 / size;
  if (size > 4 && (paired(accesses, 1) || paired(accesses, 2))) lanes *= 2;
  for (int first = 0; first < 32; first += lanes) {
    std::set<uintptr_t> words, banks[32];
    for (const Access& a : accesses) {
      if (a.lane < first || a.lane >= first + lanes) continue;
      for (uintptr_t w = a.address / 4; w <= (a.address + size - 1) / 4; ++w) {
        words.insert(w);
        banks[w % 32].insert(w);
      }
    }
    size_t fullest = 0;
    for (const auto& bank : banks) fullest = std::max(fullest, bank.size());
    cost->parts += long(fullest);
    cost->fewest += long(words.size() + 31) / 32;
  }
}

void add_sectors(const std::vector<Access>& accesses, int size, Cost* cost) {
  std::set<uintptr_t> sectors, bytes;
  for (const Access& a : accesses)
    for (uintptr_t b = a.address; b < a.address + size; ++b) {
      sectors.insert(b / 32);
      bytes.insert(b);
    }
  cost->parts += long(sectors.size());
  cost->fewest += long(bytes.size() + 31) / 32;
}

using Add = void (*)(const std::vector<Access>&, int, Cost*);

void print(char space, const char* name, std::map<Request, std::vector<Access>>* requests,
           Add add) {
  std::map<uintptr_t, Cost> costs;
  for (const auto& [request, accesses] : *requests) {
    Cost& cost = costs[request.instruction];
    ++cost.requests;
    add(accesses, request.size, &cost);
  }
  const auto base = reinterpret_cast<uintptr_t>(&__executable_start);
  for (const auto& [instruction, cost] : costs)
    printf("memory %c %s 0x%lx %ld %ld %ld\n", space, name, long(instruction - base - 1),
           cost.requests, cost.parts, cost.fewest);
  requests->clear();
}

void begin_case() {
  find_stack();
  recording = true;
}

void end_case(const char* name) {
  recording = false;
  print('S', name, &shared_requests, add_wavefronts);
  print('G', name, &global_requests, add_sectors);
  executions.clear();
}

[[maybe_unused]] const bool hooked = [] {
  emulation_cases::watch_cases(begin_case, end_case);
  return true;
}();

}  // namespace

extern "C" {

#define TRPO_ACCESS(name, size)                                                                 \
  void __tsan_##name##size(void* p) { record(p, size, __builtin_return_address(0)); }           \
  void __tsan_unaligned_##name##size(void* p) { record(p, size, __builtin_return_address(0)); } \
  void __tsan_volatile_##name##size(void* p) { record(p, size, __builtin_return_address(0)); }
#define TRPO_ACCESSES(size) TRPO_ACCESS(read, size) TRPO_ACCESS(write, size)
TRPO_ACCESSES(1)
TRPO_ACCESSES(2)
TRPO_ACCESSES(4)
TRPO_ACCESSES(8)
TRPO_ACCESSES(16)

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read_range(void*, unsigned long) {}
void __tsan_write_range(void*, unsigned long) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}

// Atomics cost what they do on the device in ways this does not model: they run and are not counted.
#define TRPO_ATOMICS(bits, T)                                                               \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return *p; }                     \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { *p = v; }                     \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                               \
    T o = *p;                                                                               \
    *p = v;                                                                                 \
    return o;                                                                               \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                              \
    T o = *p;                                                                               \
    *p = o + v;                                                                             \
    return o;                                                                               \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                              \
    T o = *p;                                                                               \
    *p = o - v;                                                                             \
    return o;                                                                               \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* e, T v, int, int) {   \
    if (*p == *e) {                                                                         \
      *p = v;                                                                               \
      return 1;                                                                             \
    }                                                                                       \
    *e = *p;                                                                                \
    return 0;                                                                               \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* e, T v, int a, int b) { \
    return __tsan_atomic##bits##_compare_exchange_strong(p, e, v, a, b);                    \
  }                                                                                         \
  T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T e, T v, int a, int b) {     \
    __tsan_atomic##bits##_compare_exchange_strong(p, &e, v, a, b);                          \
    return e;                                                                               \
  }
TRPO_ATOMICS(8, uint8_t)
TRPO_ATOMICS(32, uint32_t)
TRPO_ATOMICS(64, uint64_t)

}  // extern "C"
