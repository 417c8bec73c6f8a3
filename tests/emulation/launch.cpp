// Launches: checks the configuration against the pretended device, makes a fiber per CUDA thread
// and runs the kernel on them.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "fibers.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulation {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSharedAlign = 1024;
constexpr unsigned kMaxThreads = 1024;
#if defined(TRPO_EMULATE_TSAN)
constexpr unsigned kMaxResident = 4096;  // TSan itself ends at about 8000 threads
void* tsan_fibers[kMaxResident];
#else
constexpr unsigned kMaxResident = 1u << 20;
#endif

Body body;
const void* body_argument;
char start_order, end_order;  // kernel start and end are ordered with the launcher
char* arena;                  // fiber stacks, kept between launches
size_t arena_bytes;

void run_fiber() {
  enter_first_time();
  receive(&start_order);
  body(body_argument);
  Fiber* me = self();
  me->state = State::kDone;
  publish(&end_order);
  leave();
  switch_context(me, next_fiber(), /*dying=*/true);
  abort();  // nobody resumes a thread that has exited
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
  // Kept between launches: making one is slow, and launches are ordered anyway.
  void** kept = &tsan_fibers[fiber - resident.fibers];
  if (!*kept) *kept = __tsan_create_fiber(0);
  fiber->tsan = *kept;
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
    if (resident.failed) {  // abandoned: order its past before the launcher's future
      __tsan_switch_to_fiber(fiber.tsan, 1);
      __tsan_release(&end_order);
      __tsan_switch_to_fiber(launcher, 1);
      __tsan_destroy_fiber(fiber.tsan);
      tsan_fibers[i] = nullptr;
    }
  }
  receive(&end_order);
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
  reset_scheduler(resident.fiber_count);
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
  publish(&start_order);  // with everything prepared above
  adopt_launcher();
  switch_context(nullptr, next_fiber(), false);
  current = nullptr;
  receive(&end_order);
  if (!resident.failed) describe_deadlock();
  drop_fibers();
  for (unsigned b = 0; b < count; ++b) free_block(&resident.blocks[b], shared_bytes);
  free(resident.fibers);
  free(resident.blocks);
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
  set_message(format, arguments);
  va_end(arguments);
  return error;
}

}  // namespace

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
  const PretendedDevice& device = options.device[current_device];
  uint64_t room = uint64_t(device.multiprocessors) *
                  blocks_per_multiprocessor(static_cast<int>(threads), shared_bytes);
  if (device.at_once >= 0) room = std::min<uint64_t>(room, device.at_once);
  if (cooperative && blocks > room)
    return reject(kCooperativeTooLarge,
                  "cooperative launch: expected at most %llu blocks (what "
                  "is resident at once), got %llu",
                  static_cast<unsigned long long>(room), static_cast<unsigned long long>(blocks));
  const uint64_t together =
      threads * (cooperative ? blocks : std::min<uint64_t>(blocks, ordinary_blocks(threads)));
  if (together > kMaxResident)
    return reject(kInvalidValue,
                  "launch: expected at most %u threads at once in this build of the emulator, "
                  "got %llu",
                  kMaxResident, static_cast<unsigned long long>(together));
  if (!make_arena(together))
    return reject(kInvalidValue, "launch: no memory for the stacks of %llu threads",
                  static_cast<unsigned long long>(together));
  return kSuccess;
}

size_t shared_limit() {
  // The carver's red zones are not the kernel's fault.
  const size_t limit = options.device[current_device].shared_limit;
  return (limit ? limit : 227 * 1024) + 512 * kRedZone;
}

int blocks_per_multiprocessor(int threads, size_t shared_bytes) {
  if (threads <= 0 || shared_bytes > shared_limit()) return 0;
  if (const int given = options.device[current_device].occupancy; given >= 0) return given;
  const size_t warps = (threads + 31) / 32;
  const size_t registers = 32 * warps * std::min<size_t>(256, 65536 / (32 * warps));
  const size_t by_shared = (shared_limit() + 1024) / (shared_bytes + 1024);
  return static_cast<int>(std::min({65536 / registers, by_shared, size_t{32}}));
}

bool is_private(const void* address) {
  const auto* byte = static_cast<const char*>(address);
  const auto* fibers = reinterpret_cast<const char*>(resident.fibers);
  return (byte >= arena && byte < arena + arena_bytes) ||
         (byte >= fibers && byte < fibers + resident.fiber_count * sizeof(Fiber));
}

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
  resident.failed = false;
  body = kernel;
  body_argument = argument;
  seed_scheduler();
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
