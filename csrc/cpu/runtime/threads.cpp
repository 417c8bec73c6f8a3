#include "cpu/runtime/threads.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>

#include "cpu/runtime/wait.h"

namespace trpo_fast::cpu {
namespace {

// A worker outside a region should leave its core to others at once (torch's own threads, the
// environments); inside one it waits through the caller's serial parts, which take microseconds.
constexpr int64_t kIdleSpinNs = 20'000;
constexpr int64_t kPhaseSpinNs = 60'000;

// The state of the current phase in one word, so that a claim is one compare-and-swap that fails
// whenever the phase it was meant for is over:
//   generation (40 bits) | threads of the region (8) | units nobody has claimed yet (16)
// Counting down to zero makes "nothing left" readable without the phase's fields, which therefore
// are read only after a successful claim, when the phase cannot end before the claimed unit does.
constexpr int kUnitBits = 16;
constexpr int kThreadBits = 8;
constexpr uint64_t kMaxUnits = (uint64_t{1} << kUnitBits) - 1;

uint64_t make_ticket(uint64_t generation, int threads, uint64_t units) {
  return generation << (kUnitBits + kThreadBits) | static_cast<uint64_t>(threads) << kUnitBits |
         units;
}
uint64_t ticket_units(uint64_t ticket) { return ticket & kMaxUnits; }
int ticket_threads(uint64_t ticket) { return static_cast<int>(ticket >> kUnitBits) & kMaxThreads; }

// True on workers, and on a caller inside its region: regions opened there run serially.
thread_local bool inside_region = false;

}  // namespace

class Pool {
 public:
  static Pool& get();
  static void drop_after_fork();

  bool enter() { return !taken_.exchange(true, std::memory_order_acquire); }
  void leave();
  int grow(int threads);
  void run_phase(int threads, int64_t count, LaneFn lane, void* context);

 private:
  struct alignas(64) Worker {
    std::atomic<uint32_t> parked{0};  // 1: asleep, or about to be; whoever writes 0 wakes it
    Pool* pool = nullptr;
    int index = 0;
  };

  static void* worker_main(void* argument);
  bool start(Worker& worker, int index);
  void serve(Worker& worker);
  void park(Worker& worker);
  bool claim_and_run(int index);
  void wake_workers(int threads, uint64_t units);
  void wait_for_lanes();

  static std::atomic<Pool*> instance_;

  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> unfinished_{0};  // claimed or unclaimed units of the phase
  std::atomic<bool> caller_sleeps_{false};
  alignas(64) std::atomic<bool> taken_{false};

  // Written by the caller between phases only.
  uint64_t generation_ = 0;
  uint64_t units_ = 0;
  int64_t count_ = 0;
  int64_t lanes_per_unit_ = 1;
  LaneFn lane_ = nullptr;
  void* context_ = nullptr;
  int started_ = 0;  // workers 1 .. started_ exist

  Worker workers_[kMaxThreads + 1];
};

std::atomic<Pool*> Pool::instance_{nullptr};

// Never freed: workers are detached and may read it until the process ends.
Pool& Pool::get() {
  Pool* pool = instance_.load(std::memory_order_acquire);
  if (pool) return *pool;
  Pool* fresh = new Pool;
  if (instance_.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *pool;
}

// The child has one thread, the one that forked; the parent's pool is left to the parent.
void Pool::drop_after_fork() {
  instance_.store(nullptr, std::memory_order_release);
  inside_region = false;
}

__attribute__((constructor)) static void register_fork_handler() {
  pthread_atfork(nullptr, nullptr, &Pool::drop_after_fork);
}

// ---- the worker's side

void* Pool::worker_main(void* argument) {
  Worker& worker = *static_cast<Worker*>(argument);
  inside_region = true;
  worker.pool->serve(worker);
  return nullptr;
}

void Pool::serve(Worker& worker) {
  for (;;) {
    if (claim_and_run(worker.index)) continue;
    const uint64_t seen = ticket_.load(std::memory_order_relaxed);
    const bool in_region = ticket_threads(seen) > worker.index;
    const auto work_came = [&] {
      const uint64_t ticket = ticket_.load(std::memory_order_relaxed);
      return ticket_units(ticket) > 0 && ticket_threads(ticket) > worker.index;
    };
    if (!spin_until(in_region ? kPhaseSpinNs : kIdleSpinNs, work_came)) park(worker);
  }
}

// The store to parked and the load of the ticket, here, and the caller's store of the ticket and
// its load of parked are all sequentially consistent: one of the two sees the other.
void Pool::park(Worker& worker) {
  worker.parked.store(1, std::memory_order_seq_cst);
  const uint64_t ticket = ticket_.load(std::memory_order_seq_cst);
  if (ticket_units(ticket) > 0 && ticket_threads(ticket) > worker.index) {
    worker.parked.store(0, std::memory_order_relaxed);
    return;
  }
  while (worker.parked.load(std::memory_order_acquire) == 1) futex_wait(&worker.parked, 1);
}

// Takes one unit of the phase and runs its lanes; false if there is none for this thread.
bool Pool::claim_and_run(int index) {
  uint64_t ticket = ticket_.load(std::memory_order_relaxed);
  do {
    if (ticket_units(ticket) == 0 || ticket_threads(ticket) <= index) return false;
    // Acquire orders the reads of the phase's fields after the caller's writes of them: every
    // claim is a read-modify-write, so it continues the release sequence of the caller's store.
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acquire,
                                          std::memory_order_relaxed));
  const int64_t unit = static_cast<int64_t>(units_ - ticket_units(ticket));
  const int64_t first = unit * lanes_per_unit_;
  const int64_t last = std::min(first + lanes_per_unit_, count_);
  for (int64_t lane = first; lane < last; ++lane) lane_(context_, lane, index);
  // Releases the lane's results and this thread's reads of the fields to the waiting caller.
  if (unfinished_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
      caller_sleeps_.load(std::memory_order_seq_cst)) {
    futex_wake(&unfinished_);
  }
  return true;
}

// ---- the caller's side

void Pool::run_phase(int threads, int64_t count, LaneFn lane, void* context) {
  lane_ = lane;
  context_ = context;
  count_ = count;
  lanes_per_unit_ = (count + static_cast<int64_t>(kMaxUnits) - 1) / static_cast<int64_t>(kMaxUnits);
  units_ = static_cast<uint64_t>((count + lanes_per_unit_ - 1) / lanes_per_unit_);
  unfinished_.store(static_cast<uint32_t>(units_), std::memory_order_relaxed);
  // Publishes the fields above, and pairs with park()'s load of the ticket.
  ticket_.store(make_ticket(++generation_, threads, units_), std::memory_order_seq_cst);
  wake_workers(threads, units_);
  while (claim_and_run(0)) {
  }
  wait_for_lanes();
}

// Wakes sleepers only as far as there are units beyond the caller's own and the awake workers'.
void Pool::wake_workers(int threads, uint64_t units) {
  uint64_t useful = units - 1;
  for (int i = 1; i < threads && useful > 0; ++i, --useful) {
    Worker& worker = workers_[i];
    if (worker.parked.load(std::memory_order_seq_cst) == 1 &&
        worker.parked.exchange(0, std::memory_order_acq_rel) == 1) {
      futex_wake(&worker.parked);
    }
  }
}

void Pool::wait_for_lanes() {
  const auto done = [&] { return unfinished_.load(std::memory_order_acquire) == 0; };
  if (spin_until(kPhaseSpinNs, done)) return;
  // Sleeping frees the core, which the threads with the unfinished lanes may need.
  caller_sleeps_.store(true, std::memory_order_seq_cst);
  while (const uint32_t left = unfinished_.load(std::memory_order_seq_cst)) {
    futex_wait(&unfinished_, left);
  }
  caller_sleeps_.store(false, std::memory_order_relaxed);
}

bool Pool::start(Worker& worker, int index) {
  worker.pool = this;
  worker.index = index;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigset_t all, before;  // signals belong to the host program's threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, &worker_main, &worker) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return started;
}

// Starts missing workers; returns how many threads the region has, fewer if the system refuses.
int Pool::grow(int threads) {
  while (started_ < threads - 1 && start(workers_[started_ + 1], started_ + 1)) ++started_;
  return std::min(threads, started_ + 1);
}

// A ticket without threads tells the workers that no region is open.
void Pool::leave() {
  ticket_.store(make_ticket(++generation_, 0, 0), std::memory_order_release);
  taken_.store(false, std::memory_order_release);
}

// ---- regions

void Team::lanes(int64_t count, LaneFn lane, void* context) {
  if (pool_ && count > 1) return pool_->run_phase(threads_, count, lane, context);
  for (int64_t i = 0; i < count; ++i) lane(context, i, 0);
}

namespace {

struct Region {
  Pool* pool = nullptr;
  bool outer = inside_region;

  explicit Region(int threads) {
    if (threads > 1 && !outer && Pool::get().enter()) pool = &Pool::get();
    inside_region = true;
  }
  ~Region() {
    if (pool) pool->leave();
    inside_region = outer;
  }
};

}  // namespace

void run_team(int threads, TeamFn body, void* context) {
  threads = std::min(threads, kMaxThreads);
  Region region(threads);
  Team team(region.pool, region.pool ? region.pool->grow(threads) : 1);
  if (team.threads_ == 1) team.pool_ = nullptr;
  body(context, team);
}

void parallel_lanes(int threads, int64_t lanes, LaneFn lane, void* context) {
  run_team(static_cast<int>(std::min<int64_t>(threads, std::max<int64_t>(lanes, 1))),
           [&](Team& team) { team.lanes(lanes, lane, context); });
}

}  // namespace trpo_fast::cpu
