// Which fiber runs next, in the order the options ask for; spinning; the first failure.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "fibers.h"

namespace emulation {

Thread* current;
Options options;
Counters counters;
Launch resident;

namespace {

__thread char message[2048];
uint64_t random_state, idle_yields;

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

void record(const char* format, va_list arguments) {
  if (resident.failed) return;  // the first failure is the one to report
  resident.failed = true;
  vsnprintf(message, sizeof message, format, arguments);
}

}  // namespace

Fiber* next_fiber() {
  const int waiting = ready.size();
  if (waiting == 0 || resident.failed) return nullptr;
  if (options.order == Order::kFifo) return ready.pop_front();
  if (options.order == Order::kLifo) return ready.take(waiting - 1);
  return ready.take(static_cast<int>(next_random() % waiting));
}

void reset_scheduler(int fibers) {
  free(ready.slot);
  ready = {static_cast<Fiber**>(malloc(sizeof(Fiber*) * (fibers + 1))), fibers + 1, 0, 0};
  idle_yields = 0;
}

void seed_scheduler() {
  message[0] = 0;
  random_state = options.seed * 0x9E3779B97F4A7C15ull + 0x1234567ull;
  if (!random_state) random_state = 1;
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

void set_message(const char* format, va_list arguments) {
  vsnprintf(message, sizeof message, format, arguments);
}

const char* last_message() { return message; }

}  // namespace emulation
