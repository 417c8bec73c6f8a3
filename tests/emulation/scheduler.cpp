// Launches: checks the configuration against the pretended device, makes a fiber per CUDA thread,
// runs them in the order the options ask for, and says what went wrong.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "fibers.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulation {

Thread* current;
Options options;
Counters counters;
Launch resident;

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSharedAlign = 1024;
constexpr unsigned kMaxThreads = 1024;

char message[2048];
Body body;
const void* body_argument;
uint64_t random_state, idle_yields;
char start_order, end_order;  // kernel start and end are ordered with the launcher
char* arena;                  // fiber stacks, kept between launches
size_t arena_bytes;

struct Queue {  // ring of ready fibers
  Fiber** slot;
  int capacity, head, tail;

  int size() const { return tail >= head ? tail - head : tail - head + capacity; }
  void push_back(Fiber* fiber) {
    slot[tail] = fiber;
    tail = tail + 1 == capacity ? 0 : tail + 1;
  }
  void push_front(Fiber* fiber) {
    head = head == 0 ? capacity - 1 : head - 1;
    slot[head] = fiber;
  }
  Fiber* take(int offset) {  // the last one fills the hole
    const int last = tail == 0 ? capacity - 1 : tail - 1;
    const int index = (head + offset) % capacity;
    Fiber* fiber = slot[index];
    slot[index] = slot[last];
    tail = last;
    return fiber;
  }
  Fiber* pop_front() {
    Fiber* fiber = slot[head];
    head = head + 1 == capacity ? 0 : head + 1;
    return fiber;
  }
} ready;

uint64_t next_random() {  // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

Fiber* next_fiber() {
  const int waiting = ready.size();
  if (waiting == 0 || resident.failed) return nullptr;
  if (options.order == Order::kFifo) return ready.pop_front();
  if (options.order == Order::kLifo) return ready.take(waiting - 1);
  return ready.take(static_cast<int>(next_random() % waiting));
}

void record(const char* format, va_list arguments) {
  if (resident.failed) return;  // the first failure is the one to report
  resident.failed = true;
  vsnprintf(message, sizeof message, format, arguments);
}

void run_fiber() {
  enter_first_time();
  receive(&start_order);
  body(body_argument);
  Fiber* me = self();
  me->state = State::kDone;
  leave();
  publish(&end_order);
  switch_context(me, next_fiber(), /*dying=*/true);
  abort();  // nobody resumes a thread that has exited
}

void describe_deadlock() {
  static const char* const kStates[] = {"ready", "__syncthreads", "grid_sync", "a warp collective",
                                        "exited"};
  size_t used = 0, shown = 0, stuck = 0;
  for (int i = 0; i < resident.fiber_count; ++i) {
    const Fiber& f = resident.fibers[i];
    if (f.state == State::kDone) continue;
    ++stuck;
    if (shown == 8) continue;
    ++shown;
    used += snprintf(
        message + used, sizeof message - used, "%s block %u thread %u waits in %s at %s:%d",
        used ? ";" : "deadlock:", f.block_index.x, f.thread_index.x,
        kStates[static_cast<int>(f.state)], f.site.file ? f.site.file : "?", f.site.line);
  }
  if (stuck > shown) snprintf(message + used, sizeof message - used, "; %zu more", stuck - shown);
  resident.failed |= stuck > 0;
}

void make_fiber(Fiber* fiber, unsigned block, unsigned thread, dim3 grid, dim3 shape) {
  fiber->thread_index = {thread % shape.x, thread / shape.x % shape.y, thread / shape.x / shape.y};
  fiber->block_index = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
  fiber->block_size = shape;
  fiber->grid_size = grid;
  fiber->lane = static_cast<int>(thread & 31);
  fiber->warp = static_cast<int>(thread >> 5);
  fiber->shared = fiber->block->shared;
#if defined(TRPO_EMULATE_TSAN)
  fiber->tsan = __tsan_create_fiber(0);
#endif
  prepare(fiber, run_fiber);
  make_ready(fiber);
}

void make_block(Block* block, size_t shared_bytes) {
  const unsigned warps = (resident.threads + 31) / 32;
  block->live = resident.threads;
  block->warps = static_cast<Warp*>(calloc(warps, sizeof(Warp)));
  for (unsigned w = 0; w < warps; ++w) {
    const unsigned lanes = std::min(32u, resident.threads - 32 * w);
    block->warps[w].alive = lanes == 32 ? ~0u : (1u << lanes) - 1;
  }
  if (!shared_bytes) return;
  const size_t rounded = (shared_bytes + kSharedAlign - 1) / kSharedAlign * kSharedAlign;
  block->shared = static_cast<unsigned char*>(aligned_alloc(kSharedAlign, rounded));
  memset(block->shared, 0xff, rounded);  // NaN: reading what nobody wrote shows
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(block->shared + shared_bytes, rounded - shared_bytes);
#endif
}

void free_block(Block* block, [[maybe_unused]] size_t shared_bytes) {
#if defined(__SANITIZE_ADDRESS__)
  const size_t rounded = (shared_bytes + kSharedAlign - 1) / kSharedAlign * kSharedAlign;
  if (block->shared) __asan_unpoison_memory_region(block->shared, rounded);
#endif
  free(block->shared);
  free(block->warps);
}

bool make_arena(size_t fibers) {  // stacks with a guard page below each
  const size_t slot = stack_bytes() + kPage, bytes = slot * fibers;
  if (bytes <= arena_bytes) return true;
  if (arena) munmap(arena, arena_bytes);
  void* got = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  arena = got == MAP_FAILED ? nullptr : static_cast<char*>(got);
  arena_bytes = arena ? bytes : 0;
  for (size_t i = 0; arena && i < fibers; ++i) mprotect(arena + i * slot, kPage, PROT_NONE);
  return arena != nullptr;
}

void drop_fibers() {
#if defined(TRPO_EMULATE_TSAN)
  void* launcher = __tsan_get_current_fiber();
  for (int i = 0; i < resident.fiber_count; ++i) {
    Fiber& fiber = resident.fibers[i];
    if (fiber.state != State::kDone) {  // abandoned: order its past before the launcher's future
      __tsan_switch_to_fiber(fiber.tsan, 1);
      __tsan_release(&end_order);
      __tsan_switch_to_fiber(launcher, 1);
    }
  }
  receive(&end_order);
  for (int i = 0; i < resident.fiber_count; ++i) __tsan_destroy_fiber(resident.fibers[i].tsan);
#endif
#if defined(__SANITIZE_ADDRESS__)
  const size_t slot = stack_bytes() + kPage;
  for (int i = 0; i < resident.fiber_count; ++i)
    __asan_unpoison_memory_region(arena + i * slot + kPage, stack_bytes());
#endif
  for (int i = 0; i < resident.fiber_count; ++i) free(resident.fibers[i].copies);
}

// Runs blocks [first, first + count) of the grid together.
void run_resident(dim3 grid, dim3 shape, size_t shared_bytes, unsigned first, unsigned count) {
  const unsigned threads = shape.x * shape.y * shape.z, total = threads * count;
  resident = {};
  resident.threads = threads;
  resident.block_count = count;
  resident.fiber_count = static_cast<int>(total);
  resident.grid_live = total;
  resident.fibers = static_cast<Fiber*>(calloc(total, sizeof(Fiber)));
  resident.blocks = static_cast<Block*>(calloc(count, sizeof(Block)));
  ready = {static_cast<Fiber**>(malloc(sizeof(Fiber*) * (total + 1))), int(total + 1), 0, 0};
  idle_yields = 0;
  publish(&start_order);
  for (unsigned b = 0; b < count; ++b) {
    make_block(&resident.blocks[b], shared_bytes);
    for (unsigned t = 0; t < threads; ++t) {
      Fiber* fiber = &resident.fibers[b * threads + t];
      fiber->block = &resident.blocks[b];
      fiber->shared_bytes = shared_bytes;
      fiber->stack = arena + (b * threads + t) * (stack_bytes() + kPage) + kPage;
      make_fiber(fiber, first + b, t, grid, shape);
    }
  }
  adopt_launcher();
  switch_context(nullptr, next_fiber(), false);
  current = nullptr;
  receive(&end_order);
  if (!resident.failed) describe_deadlock();
  drop_fibers();
  for (unsigned b = 0; b < count; ++b) free_block(&resident.blocks[b], shared_bytes);
  free(resident.fibers);
  free(resident.blocks);
  free(ready.slot);
}

// How many blocks of an ordinary launch run together. One by one a block that waits for another
// deadlocks, as it may on a device; TSan needs them side by side to see races between blocks.
unsigned ordinary_blocks([[maybe_unused]] unsigned threads) {
#if defined(TRPO_EMULATE_TSAN)
  return std::max(1u, 2048 / threads);
#else
  return 1;
#endif
}

int reject(LaunchError error, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return error;
}

int check_launch(dim3 grid, dim3 shape, size_t shared_bytes, bool cooperative) {
  const uint64_t threads = uint64_t{shape.x} * shape.y * shape.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (current) return reject(kInvalidValue, "launch from inside a kernel");
  if (threads == 0 || threads > kMaxThreads || blocks == 0 || grid.y > 65535 || grid.z > 65535)
    return reject(kInvalidConfiguration,
                  "launch: expected 1 to %u threads and at least one block, "
                  "got %llu threads, %ux%ux%u blocks",
                  kMaxThreads, static_cast<unsigned long long>(threads), grid.x, grid.y, grid.z);
  if (shared_bytes > shared_limit())
    return reject(kInvalidValue, "launch: expected at most %zu bytes of shared memory, got %zu",
                  shared_limit(), shared_bytes);
  const uint64_t room = uint64_t(options.multiprocessors) *
                        blocks_per_multiprocessor(static_cast<int>(threads), shared_bytes);
  if (cooperative && blocks > room)
    return reject(kCooperativeTooLarge,
                  "cooperative launch: expected at most %llu blocks (what "
                  "is resident at once), got %llu",
                  static_cast<unsigned long long>(room), static_cast<unsigned long long>(blocks));
  if (!make_arena(threads * (cooperative
                                 ? blocks
                                 : std::min<uint64_t>(blocks, ordinary_blocks(int(threads))))))
    return reject(kInvalidValue, "launch: no memory for the stacks of %llu threads",
                  static_cast<unsigned long long>(threads * blocks));
  return kSuccess;
}

}  // namespace

size_t shared_limit() {
  // The carver's red zones are not the kernel's fault.
  return (options.shared_limit ? options.shared_limit : 227 * 1024) + 512 * kRedZone;
}

int blocks_per_multiprocessor(int threads, size_t shared_bytes) {
  if (threads <= 0 || shared_bytes > shared_limit()) return 0;
  const size_t by_threads = 2048 / ((threads + 31) / 32 * 32);
  const size_t by_shared = (shared_limit() + 1024) / (shared_bytes + 1024);
  return static_cast<int>(std::min({by_threads, by_shared, size_t{32}}));
}

void make_ready(Fiber* fiber) {
  fiber->state = State::kReady;
  ready.push_back(fiber);
}

void suspend() {
  Fiber* me = self();
  Fiber* next = next_fiber();
  if (next != me) switch_context(me, next, false);  // null: deadlock or failure, the launcher knows
}

void progress() { idle_yields = 0; }

void yield(Site site) {
  if (!current) return;
  const uint64_t limit =
      options.spin_limit ? options.spin_limit : 100'000 + 1000ull * resident.fiber_count;
  if (++idle_yields > limit) fail("livelock: a spinning thread never sees what it waits for", site);
  Fiber* me = self();
  me->state = State::kReady;
  me->site = site;
  if (options.order == Order::kLifo) {
    ready.push_front(me);  // the cold end, or LIFO would come back here for ever
  } else {
    ready.push_back(me);
  }
  suspend();
}

void maybe_preempt(Site site) {
  if (options.preempt > 0 && (next_random() >> 40) < options.preempt * float(1 << 24)) {
    const uint64_t spins = idle_yields;
    yield(site);
    idle_yields = std::min(idle_yields, spins);
  }
}

void fail_with(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  record(format, arguments);
  va_end(arguments);
  switch_context(self(), nullptr, false);  // never resumed
  abort();
}

void fail(const char* what, Site site) {
  const Thread* me = current;
  fail_with("%s at %s:%d (block %u thread %u)", what, site.file, site.line, me->block_index.x,
            me->thread_index.x);
}

const char* last_message() { return message; }

void poison([[maybe_unused]] void* from, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(from, bytes);
#endif
}

int run(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, Body kernel,
        const void* argument) {
  static std::recursive_mutex one_launch;  // Python may call from several threads
  std::lock_guard<std::recursive_mutex> guard(one_launch);
  if (const int error = check_launch(grid, block, shared_bytes, cooperative)) return error;
  ++counters.launches;
  counters.cooperative_launches += cooperative;
  message[0] = 0;
  resident.failed = false;
  body = kernel;
  body_argument = argument;
  random_state = options.seed * 0x9E3779B97F4A7C15ull + 0x1234567ull;
  if (!random_state) random_state = 1;
  const unsigned blocks = grid.x * grid.y * grid.z;
  const unsigned step = cooperative ? blocks : ordinary_blocks(block.x * block.y * block.z);
  for (unsigned done = 0; done < blocks && !resident.failed; done += step) {
    const unsigned count = std::min(step, blocks - done);
    const bool descending = options.order == Order::kLifo;
    run_resident(grid, block, shared_bytes, descending ? blocks - done - count : done, count);
  }
  return resident.failed ? kLaunchFailure : kSuccess;
}

}  // namespace emulation
