// Tensor-core fragments. The maps below are written out from the PTX ISA (matrix fragments for
// mma.m16n8k8 and mma.m16n8k16, ldmatrix), not taken from prims/mma.cuh.
#include <cstring>

#include "cases.h"
#include "cuda/prims/mma.cuh"

using namespace trpo_fast::cuda;

namespace {

enum Type { kTf32, kFp16, kBf16 };

struct Place {
  int row, column;
};

// Element i of a lane's fragment: four or eight of A, two or four of B, four of D.
Place place_a(Type type, int lane, int i) {
  const int group = lane / 4, thread = lane % 4;
  if (type == kTf32) return {i == 0 || i == 2 ? group : group + 8, i < 2 ? thread : thread + 4};
  const bool upper = i == 0 || i == 1 || i == 4 || i == 5;
  return {upper ? group : group + 8, thread * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
Place place_b(Type type, int lane, int i) {
  const int group = lane / 4, thread = lane % 4;
  if (type == kTf32) return {i == 0 ? thread : thread + 4, group};
  return {thread * 2 + (i & 1) + (i < 2 ? 0 : 8), group};
}
Place place_d(int lane, int i) { return {lane / 4 + (i < 2 ? 0 : 8), lane % 4 * 2 + (i & 1)}; }

struct MmaRegisters {  // per lane
  uint32_t a[32][4], b[32][2];
  float d[32][4];
  Type type;
};

struct MmaParams {
  MmaRegisters* registers;
};

__global__ void mma_kernel(const MmaParams p) {
  const int lane = lane_index();
  uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; ++i) a[i] = p.registers->a[lane][i], d[i] = p.registers->d[lane][i];
  for (int i = 0; i < 2; ++i) b[i] = p.registers->b[lane][i];
  if (p.registers->type == kTf32) mma_m16n8k8_tf32(d, a, b);
  if (p.registers->type == kFp16) mma_m16n8k16_fp16(d, a, b);
  if (p.registers->type == kBf16) mma_m16n8k16_bf16(d, a, b);
  for (int i = 0; i < 4; ++i) p.registers->d[lane][i] = d[i];
}

void put(uint32_t* registers, Type type, int i, float value) {
  if (type == kTf32) {
    registers[i] = __float_as_uint(value);
  } else {
    const uint32_t bits = (type == kFp16 ? pack_fp16(value, 0) : pack_bf16(value, 0)) & 0xffff;
    registers[i / 2] |= bits << (i % 2 ? 16 : 0);
  }
}

// Runs one product of integer matrices through the documented maps and compares every element.
void check_product(Type type, float a[16][16], float b[16][8], float c[16][8]) {
  MmaRegisters registers = {};
  registers.type = type;
  const int depth = type == kTf32 ? 8 : 16, a_count = depth / 2, b_count = depth / 4;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < a_count; ++i) {
      const Place at = place_a(type, lane, i);
      put(registers.a[lane], type, i, a[at.row][at.column]);
    }
    for (int i = 0; i < b_count; ++i) {
      const Place at = place_b(type, lane, i);
      put(registers.b[lane], type, i, b[at.row][at.column]);
    }
    for (int i = 0; i < 4; ++i)
      registers.d[lane][i] = c[place_d(lane, i).row][place_d(lane, i).column];
  }
  CHECK_LAUNCH(launch(mma_kernel, 1, 32, 0, false, nullptr, MmaParams{&registers}));
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const Place at = place_d(lane, i);
      double expected = c[at.row][at.column];
      for (int k = 0; k < depth; ++k) expected += double(a[at.row][k]) * b[k][at.column];
      CHECK_NEAR(registers.d[lane][i], expected, 0);
    }
}

EMULATION_CASE(mma_fragments_are_those_of_ptx) {
  for (const Type type : {kTf32, kFp16, kBf16}) {
    float a[16][16], b[16][8], c[16][8];
    for (int i = 0; i < 16; ++i) {
      for (int k = 0; k < 16; ++k) a[i][k] = float((i * 37 + k * 11) % 31 - 15);
      for (int j = 0; j < 8; ++j) {
        b[i][j] = float((i * 29 + j * 7) % 23 - 11);
        c[i][j] = float(i * 8 + j);
      }
    }
    check_product(type, a, b, c);
  }
}

EMULATION_CASE(tf32_operands_lose_their_low_bits) {
  float a[16][16] = {}, b[16][8] = {}, c[16][8] = {};
  a[0][0] = 1.5f;
  b[0][0] = 1;
  MmaRegisters registers = {};
  registers.a[0][0] = __float_as_uint(1.5f) | 0x1fffu;  // hardware ignores these bits
  registers.b[0][0] = __float_as_uint(b[0][0]);
  CHECK_LAUNCH(launch(mma_kernel, 1, 32, 0, false, nullptr, MmaParams{&registers}));
  CHECK(registers.d[0][0] == a[0][0] && c[0][0] == 0);
}

// One sum of products with these operands in the first row of A and column of B, c the accumulator.
float one_sum(Type type, std::vector<float> x, std::vector<float> y, float c) {
  MmaRegisters registers = {};
  registers.type = type;
  const int depth = type == kTf32 ? 8 : 16;
  x.resize(depth);
  y.resize(depth);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < depth / 2; ++i) {
      const Place at = place_a(type, lane, i);
      if (at.row == 0) put(registers.a[lane], type, i, x[at.column]);
    }
    for (int i = 0; i < depth / 4; ++i) {
      const Place at = place_b(type, lane, i);
      if (at.column == 0) put(registers.b[lane], type, i, y[at.row]);
    }
  }
  registers.d[0][0] = c;
  CHECK_LAUNCH(launch(mma_kernel, 1, 32, 0, false, nullptr, MmaParams{&registers}));
  return registers.d[0][0];
}

// What an A100 makes of these sums (arXiv 2512.07004): all terms of one are cut off at a bit below the last
// of the largest, then their sum at its last bit, both towards zero.
EMULATION_CASE(tensor_cores_cut_off) {
  const float last = 0x1p-23f;  // of 1
  for (const Type type : {kTf32, kFp16, kBf16}) {
    for (const float sign : {1.0f, -1.0f}) {
      const auto sum = [&](std::vector<float> x, std::vector<float> y, float c) {
        for (float& value : x) value *= sign;
        return sign * one_sum(type, x, y, sign * c);
      };
      const float small = 0x1p-12f;
      CHECK(sum({1.5f * small}, {small}, 1) == 1);  // 0.75 of the last bit, which fp32 rounds up
      CHECK(sum({small, small}, {small, small}, 1) == 1 + last);   // two halves of it meet
      CHECK(sum({small, small}, {small, 0.75f * small}, 1) == 1);  // the second is cut off before
      CHECK(sum({1, small}, {1, small}, 0) == 1);                  // the largest may be a product
      CHECK(sum({-small}, {small}, 1) == 1 - last / 2);
      CHECK(sum({-0.75f * small}, {small}, 1) == 1);
      CHECK(sum({small, 1}, {small, -1}, 1) == last / 2);  // nothing is rounded in between
    }
    CHECK(std::isinf(one_sum(type, {INFINITY}, {1}, 1)));
    CHECK(std::isnan(one_sum(type, {INFINITY}, {0}, 1)));
    CHECK(std::isnan(one_sum(type, {1}, {1}, NAN)));
  }
}

// Depth 16 of 16-bit operands is two sums of eight, depth 8 of tf32 two of four.
EMULATION_CASE(tensor_cores_cut_off_between_blocks) {
  const float small = 0x1p-12f;
  for (const Type type : {kTf32, kFp16, kBf16}) {
    const int block = type == kTf32 ? 4 : 8;
    std::vector<float> x(block + 1);
    x[0] = x[block] = small;
    CHECK(one_sum(type, x, x, 1) == 1);
  }
}

struct Product {
  const float *a, *b;  // [16, depth], [depth, 8]
  float* d;            // [16, 8]
  int depth;
};

template <class Precision>
__global__ void product_kernel(const Product p) {
  float d[4] = {};
  warp_mma<Precision>(
      d, p.depth, [&](int row, int k) { return p.a[row * p.depth + k]; },
      [&](int k, int column) { return p.b[k * 8 + column]; });
  for (int i = 0; i < 4; ++i) p.d[mma_row(i) * 8 + mma_column(i)] = d[i];
}

template <class Precision>
double product_error() {  // largest error over the largest sum of absolute products
  constexpr int kDepth = 64;
  std::vector<float> a(16 * kDepth), b(kDepth * 8), d(128);
  uint32_t state = 12345;
  const auto next = [&state] {
    state = state * 1664525u + 1013904223u;
    return float(int(state >> 8) - (1 << 23)) * 0x1p-12f;  // up to 2^11
  };
  for (float& v : a) v = next();
  for (float& v : b) v = next();
  const Product p{a.data(), b.data(), d.data(), kDepth};
  CHECK_LAUNCH(launch(product_kernel<Precision>, 1, 32, 0, false, nullptr, p));
  double worst = 0, scale = 0;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      double exact = 0, size = 0;
      for (int k = 0; k < kDepth; ++k) {
        exact += double(a[i * kDepth + k]) * b[k * 8 + j];
        size += std::fabs(double(a[i * kDepth + k]) * b[k * 8 + j]);
      }
      worst = std::fmax(worst, std::fabs(exact - d[i * 8 + j]));
      scale = std::fmax(scale, size);
    }
  return worst / scale;
}

EMULATION_CASE(split_products_keep_their_accuracy) {
  const double tf32 = product_error<Tf32>(), fp16 = product_error<Fp16x3>(),
               bf16 = product_error<Bf16x3>();
  printf("  error: tf32 %.2g  fp16x3 %.2g  bf16x3 %.2g\n", tf32, fp16, bf16);
  CHECK(tf32 < 3e-4 && tf32 > 1e-6);
  CHECK(fp16 < 1e-7);
  CHECK(bf16 < 1e-5);
}

struct LoadMatrix {
  const uint16_t* tile;  // [4][8][8]
  uint32_t* out;         // [lane][4]
};

template <int kCount, bool kTransposed>
__global__ void ldmatrix_kernel(const LoadMatrix p) {
  DYN_SMEM(raw);
  Carve carve(raw);
  uint16_t* rows = carve.take<uint16_t>(32 * 8);
  const int lane = lane_index();
  for (int i = 0; i < 8; ++i) rows[lane * 8 + i] = p.tile[lane * 8 + i];
  __syncwarp();  // a row is read by the lane that names it, not by the one that wrote it
  uint32_t out[kCount];
  ldmatrix<kCount, kTransposed>(out, &rows[(lane ^ 1) * 8]);  // rows in swapped pairs
  for (int i = 0; i < kCount; ++i) p.out[lane * 4 + i] = out[i];
}

template <int kCount, bool kTransposed>
void check_ldmatrix() {
  std::vector<uint16_t> tile(4 * 64);
  std::vector<uint32_t> out(128);
  for (int i = 0; i < 256; ++i) tile[i] = uint16_t(i);
  Carve size;
  size.take<uint16_t>(32 * 8);
  CHECK_LAUNCH(launch(ldmatrix_kernel<kCount, kTransposed>, 1, 32, size.bytes, false, nullptr,
                      LoadMatrix{tile.data(), out.data()}));
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < kCount; ++m)
      for (int half = 0; half < 2; ++half) {
        const int group = lane / 4, pair = lane % 4 * 2 + half;
        const int row = kTransposed ? pair : group, column = kTransposed ? group : pair;
        CHECK((out[lane * 4 + m] >> 16 * half & 0xffff) == tile[(8 * m + (row ^ 1)) * 8 + column]);
      }
}

EMULATION_CASE(ldmatrix_fragments_are_those_of_ptx) {
  check_ldmatrix<1, false>();
  check_ldmatrix<2, false>();
  check_ldmatrix<4, false>();
  check_ldmatrix<1, true>();
  check_ldmatrix<2, true>();
  check_ldmatrix<4, true>();
}

}  // namespace
