// A short list of freed arrays, reused by the next operator of the same shape. At most kKeptBytes stay
// in the process. Threads do not wait for the list: who finds it taken (as a forked child may, for
// ever) goes to the system.
#include "cpu/runtime/memory.h"

#include <cstdlib>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace trpo_fast::cpu {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kKeptBytes = 0;  // a reused array would hide what the sanitizers look for
#else
constexpr size_t kKeptBytes = size_t{256} << 20;
#endif
constexpr size_t kSmall = size_t{64} << 10;  // below, the system's allocator is as good
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kEntries = 64;

struct Entry {
  void* memory = nullptr;
  size_t bytes = 0;
};

struct Kept {
  std::mutex mutex;
  Entry entry[kEntries];
  size_t total = 0;
};

constinit Kept kept;  // ready before any thread and after the last: nothing for a fork to cut off

// Equal requests get equal sizes, so that they find each other again.
size_t rounded(size_t bytes) {
  const size_t step = bytes >= 2 * kHugePage ? kHugePage : bytes >= kSmall ? 4096 : 64;
  return (bytes + step - 1) / step * step;
}

void* from_system(size_t bytes) {
  const bool huge = bytes >= 2 * kHugePage;
  void* memory = std::aligned_alloc(huge ? kHugePage : 64, bytes);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (huge) madvise(memory, bytes, MADV_HUGEPAGE);  // only advice: any answer will do
#endif
  return memory;
}

}  // namespace

void* take_memory(size_t bytes) {
  bytes = rounded(bytes);
  if (bytes >= kSmall) {
    Kept& list = kept;
    const std::unique_lock<std::mutex> lock(list.mutex, std::try_to_lock);
    if (lock.owns_lock()) {
      for (Entry& entry : list.entry) {
        if (!entry.memory || entry.bytes != bytes) continue;
        list.total -= bytes;
        void* found = entry.memory;
        entry = Entry{};
        return found;
      }
    }
  }
  return from_system(bytes);
}

void give_memory(void* memory, size_t bytes) {
  bytes = rounded(bytes);
  if (bytes >= kSmall && bytes <= kKeptBytes) {
    Kept& list = kept;
    const std::unique_lock<std::mutex> lock(list.mutex, std::try_to_lock);
    if (lock.owns_lock()) {
      for (Entry& entry : list.entry) {  // shapes have changed: the old ones make room
        if (list.total + bytes <= kKeptBytes) break;
        if (!entry.memory) continue;
        list.total -= entry.bytes;
        std::free(entry.memory);
        entry = Entry{};
      }
      for (Entry& entry : list.entry) {
        if (entry.memory) continue;
        list.total += bytes;
        entry = {memory, bytes};
        return;
      }
    }
  }
  std::free(memory);
}

}  // namespace trpo_fast::cpu
