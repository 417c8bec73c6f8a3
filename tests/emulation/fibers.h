// The runtime's own structures: a fiber per resident CUDA thread, and the switch between them.
// No STL: its templates are shared with instrumented units, and the linker might keep their copy.
#pragma once
#include <cstdarg>

#include "runtime.h"

#if !defined(__x86_64__) || defined(TRPO_EMULATE_UCONTEXT)
#define TRPO_EMULATE_USE_UCONTEXT 1
#include <ucontext.h>
#endif

#if defined(TRPO_EMULATE_TSAN)
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void* __tsan_get_current_fiber(void);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace emulation {

// Happens-before edges for TSan; nothing without it. __tsan_release publishes what the running
// CUDA thread did, __tsan_acquire receives it.
#if defined(TRPO_EMULATE_TSAN)
inline void publish(const void* object) { __tsan_release(const_cast<void*>(object)); }
inline void receive(const void* object) { __tsan_acquire(const_cast<void*>(object)); }
#else
inline void publish(const void*) {}
inline void receive(const void*) {}
#endif

enum class State : uint8_t { kReady, kAtBlock, kAtGrid, kAtWarp, kDone };

constexpr int kMaxAsync = 256;  // cp.async in flight per thread
constexpr int kMaxFenced = 8;   // atomics a later fence acquires

struct PendingCopy {
  AsyncCopy copy;
  int group;
};

struct MatrixArguments {  // of mma and ldmatrix: this lane's registers
  float* d;
  const uint32_t *a, *b;
  uint32_t* out;
  int count;
  bool transposed;
};

struct Warp {
  unsigned alive;           // lanes that have not exited
  uint64_t generation[32];  // of the __syncwarp whose lowest lane is i
  char order[32][2];        // two sync objects by generation, else one generation hides another
};

struct Block {
  unsigned live, waiting;
  int votes, vote_result;
  uint64_t generation;
  char order[2];
  Warp* warps;
  unsigned char* shared;
};

struct Fiber : Thread {
  Block* block;
  State state;
  Site site;
  WarpOp op;
  unsigned mask;
  uint64_t value;
  int parameter, width;
  MatrixArguments matrix;
  PendingCopy* copies;  // [kMaxAsync], allocated at the first cp.async
  int copy_count, copy_group;
  const void* fence_targets[kMaxFenced];
  int fence_count;
  char* stack;
  void* stack_pointer;
  void* fake_stack;  // ASan
  void* tsan;
#if defined(TRPO_EMULATE_USE_UCONTEXT)
  ucontext_t context;
#endif
};

// ---- scheduler (scheduler.cpp) -----------------------------------------------------------------
inline Fiber* self() { return static_cast<Fiber*>(current); }
void make_ready(Fiber* fiber);
void suspend();  // the running fiber has set its state: run another until somebody makes it ready
[[noreturn]] void fail_with(const char* format, ...) __attribute__((format(printf, 1, 2)));
void progress();  // something happened that a spinning thread may have waited for
void set_message(const char* format, va_list arguments);
Fiber* next_fiber();  // null when none is ready or the launch has failed
void describe_deadlock();
void reset_scheduler(int fibers);
void seed_scheduler();

struct Launch {  // what is resident now
  Fiber* fibers;
  int fiber_count;
  Block* blocks;
  unsigned block_count, threads;
  unsigned grid_live, grid_waiting;
  uint64_t grid_generation;
  char grid_order[2];
  bool failed;
};
extern Launch resident;
void leave();  // the running CUDA thread returns from the kernel: barriers take note

// ---- context switch (switch.cpp) ---------------------------------------------------------------
size_t stack_bytes();
void prepare(Fiber* fiber, void (*entry)());
void switch_context(Fiber* from, Fiber* to, bool dying);  // null: the launching thread
void enter_first_time();                                  // at the start of every fiber
void adopt_launcher();  // at every launch, on the launching thread

}  // namespace emulation
