// The CPU core's own thread pool: lanes of work claimed by whichever thread runs.
//
// A region (run_team) is one call of the core; inside it the caller alone runs the body and opens
// phases with Team::lanes. Lanes of a phase are claimed one after the other from an atomic counter
// by the caller and by the workers. A phase ends when its lanes are done, not when every worker has
// come by, so a worker that the system does not schedule delays nobody unless it holds a lane, and
// the caller can do everything alone.
//
// What a lane computes must not depend on the worker index (which only selects scratch): then the
// bits do not depend on the number of threads. Lanes must not throw. One region uses the pool at a
// time; a region opened while it is taken, or from inside a lane, runs serially on its own thread.
// A forked child starts with a fresh pool. No OpenMP runtime is involved.
#pragma once
#include <cstdint>

namespace trpo_fast::cpu {

class Pool;
class Team;

constexpr int kMaxThreads = 255;

using LaneFn = void (*)(void* context, int64_t lane, int worker);
using TeamFn = void (*)(void* context, Team& team);

class Team {
 public:
  // Threads that may run lanes, the caller included: worker indices are 0 .. threads() - 1.
  int threads() const { return threads_; }

  // Runs lane(context, i, worker) for i in [0, count) and returns when all are done.
  void lanes(int64_t count, LaneFn lane, void* context);

  // The same with a callable: team.lanes(blocks, [&](int64_t block, int worker) { ... });
  template <typename Lane>
  void lanes(int64_t count, const Lane& lane) {
    lanes(count, &call_lane<Lane>, const_cast<Lane*>(&lane));
  }

 private:
  friend void run_team(int threads, TeamFn body, void* context);

  template <typename Lane>
  static void call_lane(void* lane, int64_t index, int worker) {
    (*static_cast<const Lane*>(lane))(index, worker);
  }

  Team(Pool* pool, int threads) : pool_(pool), threads_(threads) {}

  Pool* pool_;  // null: this region runs serially
  int threads_;
};

// Calls body(context, team) on this thread, with up to `threads` threads behind the team.
// The body may throw between phases.
void run_team(int threads, TeamFn body, void* context);

// The same with a callable: run_team(threads, [&](Team& team) { ... });
template <typename Body>
void run_team(int threads, const Body& body) {
  run_team(
      threads, [](void* context, Team& team) { (*static_cast<const Body*>(context))(team); },
      const_cast<Body*>(&body));
}

// A region of one phase.
void parallel_lanes(int threads, int64_t lanes, LaneFn lane, void* context);

}  // namespace trpo_fast::cpu
