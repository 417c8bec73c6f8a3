// Each primitive of dev.h and prims/ does what CUDA documents.
#include <cstring>

#include "cases.h"
#include "cuda/prims/copy.cuh"
#include "cuda/prims/reduce.cuh"

using namespace trpo_fast::cuda;

namespace {

struct Floats {
  const float* in;
  float* out;
  int count;
};

__global__ void shuffle_kernel(const Floats p) {
  const float v = float(threadIdx.x);
  float* out = p.out + 5 * threadIdx.x;
  out[0] = __shfl_xor_sync(~0u, v, 5);
  out[1] = __shfl_down_sync(~0u, v, 4);
  out[2] = __shfl_up_sync(~0u, v, 3);
  out[3] = __shfl_sync(~0u, v, 7, 8);
  out[4] = float(__shfl_xor_sync(~0u, double(v), 1, 2));
}

EMULATION_CASE(shuffles_read_the_documented_lane) {
  std::vector<float> out(5 * 64);
  CHECK_LAUNCH(launch(shuffle_kernel, 1, 64, 0, false, nullptr, Floats{nullptr, out.data(), 0}));
  for (int t = 0; t < 64; ++t) {
    const int lane = t % 32, warp = t - lane;
    CHECK(out[5 * t] == (t ^ 5));
    CHECK(out[5 * t + 1] == (lane + 4 < 32 ? t + 4 : t));
    CHECK(out[5 * t + 2] == (lane >= 3 ? t - 3 : t));
    CHECK(out[5 * t + 3] == warp + (lane & ~7) + 7);
    CHECK(out[5 * t + 4] == (t ^ 1));
  }
}

struct Words {
  unsigned* out;
};

__global__ void vote_kernel(const Words p) {
  const int t = threadIdx.x;
  unsigned* out = p.out + 8 * t;
  out[0] = __ballot_sync(~0u, t % 3 == 0);
  out[1] = __any_sync(~0u, t == 40) + 2 * __all_sync(~0u, t >= 32);
  out[2] = __reduce_add_sync(~0u, unsigned(t));
  out[3] = unsigned(__reduce_min_sync(~0u, -t));
  out[4] = t & 1 ? __ballot_sync(0xaaaaaaaau, t > 16) : __ballot_sync(0x55555555u, t > 16);
  out[5] = __syncthreads_count(t > 9);
  out[6] = __syncthreads_or(t == 63) + 2 * __syncthreads_and(t >= 0);
  out[7] = __syncthreads_or(0) + 2 * __syncthreads_and(t > 0);
}

EMULATION_CASE(votes_and_reductions) {
  std::vector<unsigned> out(8 * 64);
  CHECK_LAUNCH(launch(vote_kernel, 1, 64, 0, false, nullptr, Words{out.data()}));
  for (int t = 0; t < 64; ++t) {
    const int first = t < 32 ? 0 : 32;
    unsigned third = 0, beyond = 0;
    for (int lane = 0; lane < 32; ++lane) {
      third |= unsigned((first + lane) % 3 == 0) << lane;
      beyond |= unsigned((lane & 1) == (t & 1) && first + lane > 16) << lane;
    }
    const unsigned* o = &out[8 * t];
    CHECK(o[0] == third && o[1] == (first ? 3u : 0u));
    CHECK(o[2] == unsigned(32 * first + 496) && int(o[3]) == -(first + 31));
    CHECK(o[4] == beyond && o[5] == 54 && o[6] == 3 && o[7] == 0);
  }
}

__global__ void block_sum_kernel(const Floats p) {
  DYN_SMEM(raw);
  Carve carve(raw);
  float* scratch = carve.take<float>(2 * 32);
  float sums[2] = {0, 0};
  for (int i = threadIdx.x; i < p.count; i += blockDim.x) {
    sums[0] += p.in[i];
    sums[1] += p.in[i] * p.in[i];
  }
  block_reduce(sums, scratch);
  p.out[2 * threadIdx.x] = sums[0];
  p.out[2 * threadIdx.x + 1] = sums[1] + block_sum(0.f, scratch);
}

EMULATION_CASE(block_sums_reach_every_thread) {
  Carve size;
  size.take<float>(2 * 32);
  for (const int threads : {32, 96, 256})
    for (const int count : {1, 33, 1000}) {
      std::vector<float> in(count), out(2 * threads);
      double sum = 0, squares = 0;
      for (int i = 0; i < count; ++i) {
        in[i] = float(i % 17) - 5;
        sum += in[i];
        squares += in[i] * in[i];
      }
      const Floats p{in.data(), out.data(), count};
      CHECK_LAUNCH(launch(block_sum_kernel, 1, threads, size.bytes, false, nullptr, p));
      for (int t = 0; t < threads; ++t) {
        CHECK_NEAR(out[2 * t], sum, 0);
        CHECK_NEAR(out[2 * t + 1], squares, 0);
      }
    }
}

__global__ void copy_tile_kernel(const Floats p, int columns, int stride) {
  DYN_SMEM(raw);
  Carve carve(raw);
  float* tile = carve.take<float>(8 * stride);
  block_copy_tile(tile, stride, p.in, columns, 8, columns, p.count, stride);
  cp_async_wait_all();
  __syncthreads();  // everybody's copies
  for (int i = threadIdx.x; i < 8 * stride; i += blockDim.x) p.out[i] = tile[i];
}

EMULATION_CASE(copied_tiles_are_padded_with_zeros) {
  for (const int columns : {1, 7, 8, 17}) {
    const int stride = (columns + 3) / 4 * 4 + 4;
    std::vector<float> in(8 * columns), out(8 * stride);
    for (size_t i = 0; i < in.size(); ++i) in[i] = float(i) + 1;
    Carve size;
    size.take<float>(8 * stride);
    for (const int rows : {0, 3, 8}) {
      const Floats p{in.data(), out.data(), rows};
      CHECK_LAUNCH(launch(copy_tile_kernel, 1, 64, size.bytes, false, nullptr, p, columns, stride));
      for (int r = 0; r < 8; ++r)
        for (int c = 0; c < stride; ++c)
          CHECK(out[r * stride + c] == (r < rows && c < columns ? in[r * columns + c] : 0));
    }
  }
}

__global__ void pipeline_kernel(const Floats p) {  // two stages in flight
  DYN_SMEM(raw);
  float* buffer = Carve(raw).take<float>(2 * 64);
  const int t = threadIdx.x;
  float sum = 0;
  cp_async<4>(&buffer[t], &p.in[t]);
  cp_async_commit();
  for (int i = 0; i < p.count; ++i) {
    if (i + 1 < p.count) cp_async<4>(&buffer[(i + 1) % 2 * 64 + t], &p.in[(i + 1) * 64 + t]);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();  // stage i of every thread has landed
    sum += buffer[i % 2 * 64 + (t + 1) % 64];
    __syncthreads();  // stage i is read before its buffer is filled again
  }
  cp_async_wait<0>();
  p.out[t] = sum;
}

EMULATION_CASE(cp_async_groups_complete_in_order) {
  std::vector<float> in(5 * 64), out(64);
  for (size_t i = 0; i < in.size(); ++i) in[i] = float(i);
  Carve size;
  size.take<float>(2 * 64);
  const Floats p{in.data(), out.data(), 5};
  CHECK_LAUNCH(launch(pipeline_kernel, 1, 64, size.bytes, false, nullptr, p));
  for (int t = 0; t < 64; ++t) CHECK_NEAR(out[t], 640 + 5 * ((t + 1) % 64), 0);
}

__global__ void half_warps_kernel(const Floats p) {  // lanes 0-15 and 16-31 go different ways
  const int t = threadIdx.x;
  float v = float(t);
  if (t < 16) {
    for (int i = 8; i > 0; i /= 2) v += __shfl_xor_sync(0xffffu, v, i);
  } else {
    v = __shfl_sync(0xffff0000u, v, 31);
  }
  p.out[t] = __shfl_sync(~0u, v, t ^ 16);
}

EMULATION_CASE(half_warps_diverge_and_meet) {
  std::vector<float> out(32);
  const Floats p{nullptr, out.data(), 0};
  CHECK_LAUNCH(launch(half_warps_kernel, 1, 32, 0, false, nullptr, p));
  for (int t = 0; t < 32; ++t) CHECK(out[t] == (t < 16 ? 31 : 120));
}

struct Ids {
  int* out;
};

__global__ void index_kernel(const Ids p) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  p.out[block * blockDim.x * blockDim.y * blockDim.z + thread] += int(block * 1000 + thread);
}

EMULATION_CASE(three_dimensional_indices) {
  std::vector<int> out(12 * 30);
  CHECK_LAUNCH(
      launch(index_kernel, dim3(2, 3, 2), dim3(5, 2, 3), 0, false, nullptr, Ids{out.data()}));
  for (int i = 0; i < 12 * 30; ++i) CHECK(out[i] == i / 30 * 1000 + i % 30);
}

EMULATION_CASE(conversions_round_to_nearest) {
  CHECK(to_tf32(1.00048828125f) == __float_as_uint(1.0009765625f));  // a tie goes away from zero
  CHECK(to_tf32(-1.0004f) == __float_as_uint(-1.0f));
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {  // every 16-bit value survives the way round
    const float half = unpack_fp16(bits).x, brain = unpack_bf16(bits).x;
    if (half == half) CHECK((pack_fp16(half, 0) & 0xffff) == bits);
    if (brain == brain) CHECK((pack_bf16(brain, 0) & 0xffff) == bits);
  }
  CHECK(pack_fp16(2049.f, 2051.f) == 0x68026800u);  // ties to even: 2048, 2052
  CHECK(pack_fp16(65520.f, 65519.f) == 0x7bff7c00u);
  CHECK(pack_bf16(1.00390625f, 1.01171875f) == 0x3f823f80u);
}

}  // namespace
