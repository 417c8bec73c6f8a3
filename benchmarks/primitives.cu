// What one CG iteration cannot avoid on a GPU: grid barriers, and the sum of a parameter-sized
// vector over all multiprocessors. Prints one JSON object per line, microseconds per round.
//
//   nvcc -std=c++20 -O3 -Icsrc -Icsrc/cuda -arch=sm_90 benchmarks/primitives.cu -o primitives
#include <cstdio>
#include <cstdlib>

#include "cuda/prims/grid_sync.cuh"
#include "cuda/prims/reduce.cuh"

using namespace trpo_fast::cuda;

namespace {

void check(cudaError_t error, int line) {
  if (error == cudaSuccess) return;
  printf("{\"error\": \"%s at line %d\"}\n", cudaGetErrorString(error), line);
  exit(1);
}
#define CHECK(call) check((call), __LINE__)

enum class Barrier { kCooperative, kCounter, kFlags };
constexpr const char* kBarrierNames[] = {"cooperative", "counter", "flags"};

struct Args {
  float* partials;    // [blocks, size]
  float* sums;        // [3, size]
  unsigned* counter;  // of the barrier by a counter
  unsigned* flags;    // [blocks, kFlagStride], of that by flags
  int size, rounds;
  Barrier barrier;
};

// `epoch`: of the flags, zero where a kernel begins, which takes one of the driver's barriers.
__device__ void barrier(const Args& a, unsigned& epoch) {
  switch (a.barrier) {
    case Barrier::kCounter:
      return grid_sync(a.counter);
    case Barrier::kFlags:
      if (epoch == 0) {
        if (threadIdx.x == 0) a.flags[blockIdx.x * kFlagStride] = 0;
        grid_sync();
      }
      return grid_sync(a.flags, ++epoch);
    default:
      return grid_sync();
  }
}

__global__ void barrier_kernel(Args a) {
  unsigned epoch = 0;
  for (int i = 0; i < a.rounds; ++i) barrier(a, epoch);
}

// Partial vectors out, barrier, each block adds up its slice in order, barrier, all read the sum.
__global__ void ordered_kernel(Args a) {
  const int slice = (a.size + gridDim.x - 1) / gridDim.x, first = blockIdx.x * slice;
  const int last = min(a.size, first + slice);
  float held = 0;
  unsigned epoch = 0;
  for (int round = 0; round < a.rounds; ++round) {
    for (int i = threadIdx.x; i < a.size; i += blockDim.x)
      __stcg(a.partials + size_t(blockIdx.x) * a.size + i, held + i);
    barrier(a, epoch);
    for (int i = first + warp_index(); i < last; i += warp_count()) {
      float sum = 0;
      for (int b = lane_index(); b < int(gridDim.x); b += 32)
        sum += __ldcg(a.partials + size_t(b) * a.size + i);
      sum = warp_sum(sum);
      if (lane_index() == 0) __stcg(a.sums + i, sum);
    }
    barrier(a, epoch);
    for (int i = threadIdx.x; i < a.size; i += blockDim.x) held += __ldcg(a.sums + i) * 1e-9f;
  }
  if (held == 12345.0f) a.sums[0] = held;  // keeps the reads
}

// Atomic adds into one of three rotating sums, one barrier; the next sum is cleared meanwhile.
__global__ void atomic_kernel(Args a) {
  float held = 0;
  unsigned epoch = 0;
  for (int round = 0; round < a.rounds; ++round) {
    float* sum = a.sums + size_t(round % 3) * a.size;
    float* next = a.sums + size_t((round + 1) % 3) * a.size;
    for (int i = threadIdx.x; i < a.size; i += blockDim.x) atomicAdd(sum + i, held + i);
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < a.size; i += gridDim.x * blockDim.x)
      __stcg(next + i, 0.0f);
    barrier(a, epoch);
    for (int i = threadIdx.x; i < a.size; i += blockDim.x) held += __ldcg(sum + i) * 1e-9f;
  }
  if (held == 12345.0f) a.sums[0] = held;
}

float microseconds(void (*kernel)(Args), int blocks, int threads, const Args& a) {
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  float best = 1e30f;
  for (int repeat = 0; repeat < 5; ++repeat) {
    CHECK(cudaEventRecord(start));
    CHECK(launch(kernel, dim3(blocks), dim3(threads), 0, true, nullptr, a));
    CHECK(cudaEventRecord(stop));
    CHECK(cudaEventSynchronize(stop));
    float elapsed;
    CHECK(cudaEventElapsedTime(&elapsed, start, stop));
    best = elapsed < best ? elapsed : best;
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  return best * 1e3f / a.rounds;
}

}  // namespace

int main() {
  constexpr int kRounds = 2000, kLargest = 65536;
  int blocks = 0;
  CHECK(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, 0));
  Args a = {nullptr, nullptr, nullptr, nullptr, 0, kRounds, Barrier::kCooperative};
  CHECK(cudaMalloc(&a.partials, size_t(blocks) * kLargest * sizeof(float)));
  CHECK(cudaMalloc(&a.sums, 3 * size_t(kLargest) * sizeof(float)));
  CHECK(cudaMalloc(&a.counter, sizeof(unsigned)));
  CHECK(cudaMemset(a.counter, 0, sizeof(unsigned)));
  CHECK(cudaMalloc(&a.flags, size_t(blocks) * kFlagStride * sizeof(unsigned)));
  CHECK(cudaMemset(a.sums, 0, 3 * size_t(kLargest) * sizeof(float)));
  const auto print = [&](const char* what, int threads, float us) {
    printf("{\"what\": \"%s\", \"barrier\": \"%s\", \"threads\": %d, \"size\": %d, \"us\": %.3f}\n",
           what, kBarrierNames[static_cast<int>(a.barrier)], threads, a.size, us);
  };
  for (int threads : {256, 512}) {
    for (Barrier barrier : {Barrier::kCooperative, Barrier::kCounter, Barrier::kFlags}) {
      a.barrier = barrier;
      a.size = 0;
      print("barrier", threads, microseconds(barrier_kernel, blocks, threads, a));
      for (int size : {5120, 24576, kLargest}) {
        a.size = size;
        print("ordered", threads, microseconds(ordered_kernel, blocks, threads, a));
        print("atomic", threads, microseconds(atomic_kernel, blocks, threads, a));
      }
    }
  }
}
