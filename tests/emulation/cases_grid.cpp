// What orders blocks with each other: atomics, grid barriers, flags.
#include "cases.h"
#include "cuda/prims/grid_sync.cuh"

using namespace trpo_fast::cuda;

namespace {

struct Atomics {
  float* sum;
  double* wide;
  unsigned *maximum, *count;
  int* minimum;
  unsigned long long* bits;
};

__global__ void atomics_kernel(const Atomics p) {
  const int t = int(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(p.sum, 0.5f);
  atomicAdd(p.wide, 0.25);
  atomicMax(p.maximum, unsigned(t * 7 % 128));
  atomicMin(p.minimum, -t);
  atomicOr(p.bits, 1ull << (t % 64));
  unsigned seen = load_relaxed(p.count), expected;
  do {  // a counter by compare and swap
    expected = seen;
    seen = atomicCAS(p.count, expected, expected + 2);
  } while (seen != expected);
}

EMULATION_CASE(atomics_lose_nothing) {
  float sum = 0;
  double wide = 0;
  unsigned maximum = 0, count = 0;
  int minimum = 0;
  unsigned long long bits = 0;
  const Atomics p{&sum, &wide, &maximum, &count, &minimum, &bits};
  CHECK_LAUNCH(launch(atomics_kernel, 4, 32, 0, true, nullptr, p));
  CHECK(sum == 64 && wide == 32 && maximum == 127 && count == 256 && minimum == -127);
  CHECK(bits == ~0ull);
}

struct Grid {
  float* data;
  unsigned* counter;
  unsigned* flags;
  int rounds;
};

// Every block adds up what all blocks wrote in the round before.
__global__ void grid_kernel(const Grid p) {
  const unsigned blocks = gridDim.x;
  for (int round = 0; round < p.rounds; ++round) {
    float* from = p.data + round % 2 * blocks;
    float* to = p.data + (round + 1) % 2 * blocks;
    float sum = 0;
    for (unsigned b = 0; b < blocks; ++b) sum += from[b];
    if (threadIdx.x == 0) to[blockIdx.x] = sum;
    if (p.counter) {
      grid_sync(p.counter);
    } else if (p.flags) {
      grid_sync(p.flags, round + 1);
    } else {
      grid_sync();
    }
  }
}

enum class Barrier { kCooperative, kCounter, kFlags };

void check_grid_barrier(Barrier barrier, int rounds, unsigned* counter) {
  std::vector<float> data(8, 1);
  std::vector<unsigned> flags(4 * kFlagStride, 0);
  const Grid p{data.data(), barrier == Barrier::kCounter ? counter : nullptr,
               barrier == Barrier::kFlags ? flags.data() : nullptr, rounds};
  const uint64_t before = emulation::counters.grid_barriers;
  CHECK_LAUNCH(launch(grid_kernel, 4, 64, 0, true, nullptr, p));
  for (int b = 0; b < 4; ++b) CHECK_NEAR(data[rounds % 2 * 4 + b], std::pow(4, rounds), 0);
  const bool driver = barrier == Barrier::kCooperative;
  CHECK(emulation::counters.grid_barriers - before == (driver ? unsigned(rounds) : 0u));
  CHECK((*counter & 0x7fffffffu) == 0);
}

EMULATION_CASE(grid_barriers_order_the_grid) {
  unsigned counter = 0;
  for (const Barrier barrier : {Barrier::kCooperative, Barrier::kCounter, Barrier::kFlags})
    for (const int rounds : {1, 2, 5}) check_grid_barrier(barrier, rounds, &counter);
}

// More blocks than a block has threads, so that one thread looks at several flags.
EMULATION_CASE(flags_of_more_blocks_than_threads) {
  std::vector<float> data(8, 1);
  std::vector<unsigned> flags(4 * kFlagStride, 0);
  CHECK_LAUNCH(
      launch(grid_kernel, 4, 2, 0, true, nullptr, Grid{data.data(), nullptr, flags.data(), 3}));
  for (int b = 0; b < 4; ++b) CHECK_NEAR(data[4 + b], 64, 0);
}

struct Message {
  float* data;
  unsigned* flag;
  float* out;
  bool fences;
};

// Block 0 hands data to the others, by release and acquire or by fences around relaxed atomics.
__global__ void message_kernel(const Message p) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    *p.data = 42;
    if (p.fences) {
      __threadfence();
      atomicExch(p.flag, 1u);
    } else {
      store_release(p.flag, 1);
    }
    return;
  }
  if (p.fences) {
    while (atomicAdd(p.flag, 0u) == 0) spin_wait();
    __threadfence();
  } else {
    while (load_acquire(p.flag) == 0) spin_wait();
  }
  p.out[blockIdx.x] = *p.data;
}

EMULATION_CASE(flags_pass_data_between_blocks) {
  for (const bool fences : {false, true}) {
    float data = 0;
    unsigned flag = 0;
    std::vector<float> out(4, 42);
    const Message p{&data, &flag, out.data(), fences};
    CHECK_LAUNCH(launch(message_kernel, 4, 32, 0, true, nullptr, p));
    for (const float value : out) CHECK(value == 42);
  }
}

}  // namespace
