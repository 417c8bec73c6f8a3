// The same kernels on a device and in the emulator: what dev.h's instructions make of known bits,
// printed as words, so that two builds of this file can be compared line by line. Operands of
// products are small integers, for which every order of accumulation is exact.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/prims/copy.cuh"
#include "cuda/prims/grid_sync.cuh"
#include "cuda/prims/mma.cuh"

using namespace trpo_fast::cuda;

namespace {

constexpr int kBlocks = 2, kWords = 64;  // words per thread

struct Params {
  uint32_t* out;  // [kBlocks, 32, kWords]
  unsigned* counter;
  float* exchange;         // [kBlocks]
  const uint32_t* source;  // [128]
};

__device__ uint32_t mix(uint32_t x) {  // some bits that depend on every bit of x
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

__device__ float small_integer(uint32_t seed) { return float(int(mix(seed) % 31) - 15); }

struct Writer {
  uint32_t* at;
  __device__ void word(uint32_t value) { *at++ = value; }
  __device__ void real(float value) { word(__float_as_uint(value)); }
};

template <class Product>
__device__ void check_mma(Writer& out, uint32_t seed, bool halves, Product product) {
  uint32_t a[4], b[2];
  float d[4];
  const uint32_t base = seed + 16 * lane_index();
  const auto operand = [&](uint32_t i) {
    const float low = small_integer(base + 2 * i), high = small_integer(base + 2 * i + 1);
    return halves ? (seed & 1 ? pack_bf16(low, high) : pack_fp16(low, high)) : to_tf32(low);
  };
  for (int i = 0; i < 4; ++i) a[i] = operand(i), d[i] = small_integer(base + 100 + i);
  for (int i = 0; i < 2; ++i) b[i] = operand(4 + i);
  product(d, a, b);
  for (int i = 0; i < 4; ++i) out.real(d[i]);
}

template <int kCount, bool kTransposed>
__device__ void check_ldmatrix(Writer& out, const unsigned char* tile) {
  uint32_t words[kCount];
  ldmatrix<kCount, kTransposed>(words, tile + 16 * (lane_index() ^ 3));
  for (int i = 0; i < kCount; ++i) out.word(words[i]);
}

__device__ void check_conversions(Writer& out) {
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t bits = mix(4000 + 4 * lane_index() + i);
    const float any = __uint_as_float((bits & 0x8fffffffu) | 0x30000000u);  // 2^-31 to 2
    out.word(to_tf32(any));
    out.word(pack_fp16(any, any * 3e4f));
    out.word(pack_bf16(any, any * 7.0f));
    out.real(unpack_fp16(bits & 0xbbffbbffu).x);  // finite
  }
}

__global__ void hardware_kernel(const Params p) {
  DYN_SMEM(raw);
  Carve carve(raw);
  unsigned char* tile = carve.take<unsigned char>(512);
  uint32_t* copied = carve.take<uint32_t>(128);
  const int lane = lane_index();
  Writer out = {p.out + (blockIdx.x * 32 + lane) * kWords};
  for (int i = 0; i < 16; ++i) tile[16 * lane + i] = static_cast<unsigned char>(mix(16 * lane + i));
  __syncwarp();  // rows are read by other lanes
  check_mma(out, 1000, false, [](auto& d, auto& a, auto& b) { mma_m16n8k8_tf32(d, a, b); });
  check_mma(out, 2000, true, [](auto& d, auto& a, auto& b) { mma_m16n8k16_fp16(d, a, b); });
  check_mma(out, 3001, true, [](auto& d, auto& a, auto& b) { mma_m16n8k16_bf16(d, a, b); });
  check_ldmatrix<1, false>(out, tile);
  check_ldmatrix<2, false>(out, tile);
  check_ldmatrix<4, false>(out, tile);
  check_ldmatrix<1, true>(out, tile);
  check_ldmatrix<2, true>(out, tile);
  check_ldmatrix<4, true>(out, tile);
  check_conversions(out);
  cp_async<16>(copied + 4 * lane, p.source + 4 * lane, lane < 20);
  cp_async_wait_all();
  for (int i = 0; i < 4; ++i) out.word(copied[4 * lane + i]);
  out.word(__shfl_up_sync(kFullWarp, lane, 3) ^ __shfl_down_sync(kFullWarp, lane, 5) << 8);
  out.word(__ballot_sync(kFullWarp, mix(lane) & 1));
  out.real(warp_sum(float(lane)));
  if (lane == 0) p.exchange[blockIdx.x] = float(blockIdx.x + 1);
  grid_sync();
  out.real(p.exchange[1 - blockIdx.x]);
  grid_sync(p.counter);
  if (lane == 0) p.exchange[blockIdx.x] *= 10;
  grid_sync(p.counter);
  out.real(__ldcg(&p.exchange[1 - blockIdx.x]));
}

}  // namespace

// Zeroed memory of the device; left to the end of the process.
template <class T>
T* device_array(size_t count) {
  void* memory = nullptr;
#if defined(__CUDACC__)
  cudaMalloc(&memory, count * sizeof(T));
#else
  memory = std::aligned_alloc(256, (count * sizeof(T) + 255) / 256 * 256);
#endif
  if (memory) cudaMemsetAsync(memory, 0, count * sizeof(T), nullptr);
  return static_cast<T*>(memory);
}

int main() {
  constexpr size_t kTotal = size_t{kBlocks} * 32 * kWords;
  std::vector<uint32_t> source(128), out(kTotal);
  for (uint32_t i = 0; i < 128; ++i) source[i] = 0x01010101u * i;
  uint32_t* given = device_array<uint32_t>(128);
  const Params p = {device_array<uint32_t>(kTotal), device_array<unsigned>(1),
                    device_array<float>(kBlocks), given};
  cudaMemcpyAsync(given, source.data(), 128 * sizeof(uint32_t), cudaMemcpyDefault, nullptr);
  Carve size;
  size.take<unsigned char>(512);
  size.take<uint32_t>(128);
  cudaError_t error = launch(hardware_kernel, kBlocks, 32, size.bytes, true, nullptr, p);
  if (error == cudaSuccess)
    error =
        cudaMemcpyAsync(out.data(), p.out, kTotal * sizeof(uint32_t), cudaMemcpyDefault, nullptr);
  if (error == cudaSuccess) error = cudaStreamSynchronize(nullptr);
  if (error != cudaSuccess) {
    std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
    return 1;
  }
  for (size_t i = 0; i < kTotal; ++i) {
    if (i % kWords == 0) std::printf("\nblock %zu lane %zu:", i / kWords / 32, i / kWords % 32);
    std::printf(" %08x", out[i]);
  }
  std::printf("\n");
}
