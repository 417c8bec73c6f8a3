// What the emulated CUDA vocabulary (emulate.h) asks of the runtime. One OS thread at a time drives every
// CUDA thread as a fiber, so nothing that kernels call needs a lock; what other OS threads may do
// meanwhile, launches and calls of the CUDA runtime, takes one (launch.cpp, devices.cpp). The runtime itself is never compiled with
// -fsanitize=thread: its bookkeeping is shared by all CUDA threads by design.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace emulation {

// Where in the kernel source a barrier or a collective stands.
struct Site {
  const char* file;
  int line;
};

// One CUDA thread, as kernel code sees it.
struct Thread {
  uint3 thread_index, block_index;
  dim3 block_size, grid_size;
  int lane, warp;
  unsigned char* shared;
  size_t shared_bytes;
  bool fenced;  // a __threadfence waits for the next relaxed atomic to publish it
};
extern Thread* current;  // null outside kernels

enum class Order : int { kFifo = 0, kLifo = 1, kRandom = 2 };

constexpr int kMaxDevices = 2;
struct PretendedDevice {
  int multiprocessors = 4;
  size_t shared_limit = 0;  // bytes a block may ask for; 0: 227 KB
  int occupancy = -1;       // blocks a multiprocessor holds; -1: as registers and memory allow
  int at_once = -1;         // blocks of a cooperative launch, where others use the device; -1: all
};

struct Options {
  Order order = Order::kLifo;  // the fastest; tests go through all three
  uint64_t seed = 1;
  float preempt = 0;        // probability that an atomic yields first
  uint64_t spin_limit = 0;  // yields without progress that count as a livelock; 0: by grid size
  int devices = 1;
  int driver_version = 13000;  // 0: no driver
  int linger = 0;              // microseconds before every call of the runtime, for threads to meet
  PretendedDevice device[kMaxDevices];
};
extern Options options;
extern __thread int current_device;
extern __thread int last_error;  // that cudaGetLastError has not taken yet

struct Counters {
  uint64_t launches, cooperative_launches, switches, block_barriers, grid_barriers, warp_ops, mmas,
      async_copies;
};
extern Counters counters;

// ---- launching ---------------------------------------------------------------------------------
enum LaunchError : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kInvalidConfiguration = 9,
  kLaunchFailure = 719,
  kCooperativeTooLarge = 720,
};
using Body = void (*)(const void*);
int run(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, Body body,
        const void* argument);
int check_launch(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative);
const char* last_message();  // of the last call that failed
size_t shared_limit();       // of the current device
// As many as fit if each thread has all the registers that it may have.
int blocks_per_multiprocessor(int threads, size_t shared_bytes);

// ---- the CUDA runtime's calls (devices.cpp) ------------------------------------------------------
constexpr size_t kStaticShared = 48 * 1024;  // beyond it a kernel must have been allowed to ask
// Every call of emulate_api.h begins here: it is logged, and the error planted for it, or that of a
// call that waits during a capture, is returned; 0 where it may go on.
int enter(const char* call, bool waits = false);
int refuse(int error);  // with the CUDA runtime's sentence as the message
int allow_shared(const void* kernel, size_t bytes);
// Checks and runs a launch; during a capture it is kept for replay(), the argument by value.
int launch(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, const void* kernel,
           Body body, const void* argument, size_t argument_bytes);
const char* take_calls();  // "name@device " of every call since the last time
void plant_failure(const char* call, int error, int skip);
void capture(bool on);  // on: forgets what was recorded
int recorded_launches();
int replay(int number);

// ---- what kernels call ---------------------------------------------------------------------------
[[noreturn]] void fail(const char* what, Site site);
void wait_for_block(Site site);
int block_vote(int predicate, Site site);  // a barrier; the number of threads with predicate != 0
void wait_for_grid(Site site);
void yield(Site site);
void maybe_preempt(Site site);
void fence();
void before_atomic(const void* address);
void after_atomic(const void* address);

enum class WarpOp : int {
  kSync,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kReduceAdd,
  kReduceMin,
  kReduceMax,
  kReduceAnd,
  kReduceOr,
  kReduceXor,
  kMmaTf32,
  kMmaFp16,
  kMmaBf16,
  kLoadMatrix,
};
// A collective of the lanes in the mask: the last one to arrive computes the result of all.
uint64_t warp_collective(WarpOp op, unsigned mask, uint64_t value, int parameter, int width,
                         Site site);
void warp_mma(WarpOp op, float* d, const uint32_t* a, const uint32_t* b, Site site);
// row: the 16 bytes this lane's address names; out[count]: this lane's fragments.
void warp_load_matrix(uint32_t* out, int count, bool transposed, const uint32_t* row, Site site);

struct AsyncCopy {
  void* to;
  const void* from;
  int bytes;         // 4, 8, 16
  int source_bytes;  // the rest is zero
  Site site;
};
void async_issue(const AsyncCopy& copy);
void async_commit();
bool async_next(int pending_groups, AsyncCopy* copy);  // false: nothing more to wait for

bool is_private(const void* address);   // fiber stacks and what the runtime keeps about threads
void poison(void* from, size_t bytes);  // ASan red zone of the carver
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kRedZone = 64;
#else
constexpr size_t kRedZone = 0;
#endif

}  // namespace emulation
