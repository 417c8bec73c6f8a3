// Exercises csrc/cpu/threads: one scenario per run, named on the command line; prints "ok" or says
// what was wrong and exits with 1. Compiled by test_threads.py, plain and with ThreadSanitizer.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cpu/runtime/threads.h"

using trpo_fast::cpu::run_team;
using trpo_fast::cpu::Team;

namespace {

#define EXPECT(condition)                                          \
  do {                                                             \
    if (!(condition)) {                                            \
      std::printf("line %d: expected %s\n", __LINE__, #condition); \
      return false;                                                \
    }                                                              \
  } while (0)

// Phases of changing size in one region. Plain memory is written by lanes and read by the caller
// after the phase, and by the lanes of the next phase: a missing ordering is a data race.
bool chain(int threads, int phases, int seed) {
  std::vector<long> values(97, 0), visits(97, 0);
  std::vector<long> per_worker(static_cast<size_t>(threads), 0);
  long total = 0, expected = 0;
  run_team(threads, [&](Team& team) {
    for (int phase = 0; phase < phases; ++phase) {
      const int64_t count = (phase * 31 + seed) % 97;
      team.lanes(count, [&](int64_t lane, int worker) {
        values[lane] += total + lane;
        ++visits[lane];
        ++per_worker[worker];
      });
      long sum = 0;
      for (long value : values) sum += value;
      total = sum % 1000;
      expected += count;
    }
  });
  long visited = 0, worked = 0;
  for (long count : visits) visited += count;
  for (long count : per_worker) worked += count;
  EXPECT(visited == expected);
  EXPECT(worked == expected);

  long serial_total = 0;
  std::vector<long> serial(97, 0);
  for (int phase = 0; phase < phases; ++phase) {
    for (int64_t lane = 0; lane < (phase * 31 + seed) % 97; ++lane) {
      serial[lane] += serial_total + lane;
    }
    long sum = 0;
    for (long value : serial) sum += value;
    serial_total = sum % 1000;
  }
  EXPECT(serial == values);
  return true;
}

bool phases() {
  for (int threads : {1, 2, 3, 8}) {
    for (int seed = 0; seed < 5; ++seed) EXPECT(chain(threads, 400, seed));
  }
  return true;
}

// More lanes than a ticket can count, so that units hold several.
bool many_lanes() {
  std::vector<unsigned char> seen(200'003, 0);
  const auto mark = [](void* context, int64_t lane, int) {
    ++(*static_cast<std::vector<unsigned char>*>(context))[lane];
  };
  for (int64_t count : {65'535, 65'536, 200'003}) {
    std::fill(seen.begin(), seen.end(), 0);
    trpo_fast::cpu::parallel_lanes(3, count, mark, &seen);
    for (int64_t i = 0; i < static_cast<int64_t>(seen.size()); ++i) EXPECT(seen[i] == (i < count));
  }
  return true;
}

// Regions from several threads at once: one has the pool, the others run serially.
bool callers() {
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&failures, i] {
      for (int round = 0; round < 100; ++round) failures += !chain(3, 20, i + round);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT(failures == 0);
  return true;
}

// A region inside a lane, and one inside a body, run serially and do not disturb the outer one.
bool nested() {
  std::vector<long> sums(40, 0);
  bool inner_serial = true;
  run_team(3, [&](Team& team) {
    team.lanes(40, [&](int64_t lane, int) {
      run_team(3, [&](Team& inner) {
        inner.lanes(10, [&](int64_t i, int worker) { sums[lane] += i + worker; });
      });
    });
    run_team(3, [&](Team& inner) { inner_serial = inner.threads() == 1; });
  });
  for (long sum : sums) EXPECT(sum == 45);
  EXPECT(inner_serial);
  return true;
}

bool throwing_body() {
  for (int i = 0; i < 3; ++i) {
    bool caught = false;
    try {
      run_team(3, [&](Team& team) {
        team.lanes(9, [](int64_t, int) {});
        throw std::runtime_error("between phases");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    EXPECT(caught);
    bool parallel = false;
    run_team(3, [&](Team& team) { parallel = team.threads() == 3; });
    EXPECT(parallel);
    EXPECT(chain(3, 50, i));
  }
  return true;
}

// Workers sleep between regions and must still be there, or not be needed, for the next.
bool pauses() {
  for (int i = 0; i < 40; ++i) {
    EXPECT(chain(4, 5, i));
    usleep(i % 4 * 500);
    run_team(4, [&](Team& team) {
      for (int phase = 0; phase < 3; ++phase) {
        team.lanes(16, [&](int64_t lane, int) { usleep(lane % 3 * 50); });
        usleep(150);
      }
    });
  }
  return true;
}

// Children forked before, between and during other threads' regions have a pool of their own.
bool forks() {
  std::atomic<bool> stop{false}, good{true};
  std::thread busy([&] {
    while (!stop) good = good && chain(3, 30, 7);
  });
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      bool parallel = false;
      run_team(3, [&](Team& team) { parallel = team.threads() == 3; });
      _exit(parallel && chain(3, 100, i) ? 0 : 1);
    }
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT(chain(3, 20, i));
  }
  stop = true;
  busy.join();
  EXPECT(good);
  return true;
}

// Every core has other work, and the region more threads than there are cores.
bool crowded() {
  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  for (unsigned i = 0; i < std::max(2u, std::thread::hardware_concurrency()); ++i) {
    others.emplace_back([&] {
      while (!stop) {
      }
    });
  }
  bool good = true;
  for (int seed = 0; seed < 3; ++seed) good = good && chain(6, 60, seed);
  stop = true;
  for (std::thread& other : others) other.join();
  EXPECT(good);
  return true;
}

const struct {
  const char* name;
  bool (*run)();
} kScenarios[] = {{"phases", phases},
                  {"many_lanes", many_lanes},
                  {"callers", callers},
                  {"nested", nested},
                  {"throwing_body", throwing_body},
                  {"pauses", pauses},
                  {"forks", forks},
                  {"crowded", crowded}};

}  // namespace

int main(int argc, char** argv) {
  for (const auto& scenario : kScenarios) {
    if (argc == 2 && std::strcmp(argv[1], scenario.name) == 0) {
      if (!scenario.run()) return 1;
      std::puts("ok");
      return 0;
    }
  }
  std::puts("expected the name of a scenario");
  return 2;
}
