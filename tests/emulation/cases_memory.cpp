// Kernels whose bank conflicts and sectors are known, for the memory report.
#include "cases.h"
#include "cuda/prims/copy.cuh"

using namespace trpo_fast::cuda;

namespace {

struct Tile {
  const float* in;
  float* out;
  int stride;  // of the tile in shared memory
};

__global__ void transpose_kernel(const Tile p) {
  DYN_SMEM(raw);
  float* tile = Carve(raw).take<float>(32 * size_t(p.stride), 128);
  for (int row = 0; row < 32; ++row)
    tile[row * p.stride + threadIdx.x] = p.in[row * 32 + threadIdx.x];
  __syncwarp();  // the tile, before lanes read each other's columns
  for (int row = 0; row < 32; ++row)
    p.out[row * 32 + threadIdx.x] = tile[threadIdx.x * p.stride + row];
}

void run_transpose(int stride) {
  emulation_cases::DeviceArray<float> from(1024), to(1024);
  for (int i = 0; i < 1024; ++i) from[i] = float(i);
  Carve size;
  size.take<float>(32 * size_t(stride), 128);
  CHECK_LAUNCH(launch(transpose_kernel, 1, 32, size.bytes, false, nullptr,
                      Tile{from.data(), to.data(), stride}));
  for (int i = 0; i < 1024; ++i) CHECK(to[i] == float(i % 32 * 32 + i / 32));
}

EMULATION_CASE(memory_padded_transpose) { run_transpose(33); }
EMULATION_CASE(memory_conflicting_transpose) { run_transpose(32); }

__global__ void wide_kernel(const Tile p) {
  DYN_SMEM(raw);
  float* tile = Carve(raw).take<float>(32 * size_t(p.stride), 128);
  cp_async<16>(tile + threadIdx.x * p.stride, p.in + 4 * threadIdx.x);
  cp_async_wait_all();
  const float4 v = load4(tile + threadIdx.x * p.stride);
  p.out[8 * threadIdx.x] = v.x + v.y + v.z + v.w;  // every lane its own sector
}

void run_wide(int stride) {
  emulation_cases::DeviceArray<float> in(128, 1), out(256);
  Carve size;
  size.take<float>(32 * size_t(stride), 128);
  CHECK_LAUNCH(
      launch(wide_kernel, 1, 32, size.bytes, false, nullptr, Tile{in.data(), out.data(), stride}));
}

EMULATION_CASE(memory_wide_rows) { run_wide(4); }
EMULATION_CASE(memory_wide_rows_conflicting) { run_wide(32); }

}  // namespace
