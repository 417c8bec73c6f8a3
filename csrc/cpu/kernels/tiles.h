// The two matrix products of split precision on AMX tiles, for operands as split.h lays them out:
//   rows_product  C[rows, n]  = A B (+ more such), handed to an epilogue in squares of 32 by 32
//   grad_product  C[m, n]    += A B, k over the rows of a block
// A product of two floats is the sum of the products of their planes that matter: three of two
// planes each (error 4e-6), or six of three, as exact as float32. Tiles are 16 lines by 64 bytes; four
// of the eight accumulate two groups of lines of A by two of B, so that each tile loaded serves twice.
#pragma once
#include <immintrin.h>

#include "cpu/kernels/isa.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/split.h"

namespace trpo_fast::cpu {
namespace {

typedef uint32_t Words __attribute__((vector_size(kVector * 4)));

struct Operand {
  const uint16_t* base;
  int64_t stride;  // from one group of 16 lines to the next
};

struct TileProduct {
  Operand a, b;
  int steps;  // of k
};

constexpr int kSquare = 2 * kTileLines;

template <int PLANES>
constexpr int kProducts = PLANES * (PLANES + 1) / 2;  // of planes

// The compiler does not know what memory the tile instructions read: it must have been written.
TRPO_INLINE void compiler_barrier() { asm volatile("" ::: "memory"); }

// Runs f with all eight tiles 16 rows of 64 bytes, and gives them up: a thread that holds tiles has
// 8 KiB more to save at every switch.
template <class F>
TRPO_INLINE void with_tiles(const F& f) {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  compiler_barrier();
  _tile_loadconfig(&config);
  f();
  _tile_release();
}

// ---- splitting

template <int PLANES>
struct Parts {
  Words plane[PLANES];  // bfloat16 numbers in the upper halves
};

// Each plane is what the ones before leave, rounded to eight bits; of three, the last is exact.
template <int PLANES>
TRPO_INLINE Parts<PLANES> split(V x) {
  Parts<PLANES> parts;
  for (int p = 0; p < PLANES; ++p) {
    const Words bits = reinterpret_cast<Words>(x);
    parts.plane[p] = p == 2 ? bits : (bits + 0x8000u) & 0xffff0000u;
    x -= reinterpret_cast<V>(parts.plane[p]);
  }
  return parts;
}

// Row `row` of the tiles at `tiles`: steps 0 .. 15 of k from `first`, 16 .. 31 from `second`.
template <int PLANES>
TRPO_INLINE void store_pairs(uint16_t* tiles, int row, const Parts<PLANES>& first,
                             const Parts<PLANES>& second) {
  for (int p = 0; p < PLANES; ++p) {
    const Words pairs = (first.plane[p] >> 16) | (second.plane[p] & 0xffff0000u);
    *reinterpret_cast<Words*>(tiles + p * kTileSize + row * kTileDepth) = pairs;
  }
}

// ---- products

template <int LINES>
TRPO_INLINE void load_a(const Operand& a) {
  _tile_loadd(4, a.base, 64);
  if constexpr (LINES > 1) _tile_loadd(5, a.base + a.stride, 64);
}

template <int COLUMNS>
TRPO_INLINE void load_b(const Operand& b) {
  _tile_loadd(6, b.base, 64);
  if constexpr (COLUMNS > 1) _tile_loadd(7, b.base + b.stride, 64);
}

TRPO_INLINE Operand plane_of(const Operand& x, int step, int plane) {
  return {x.base + (step * kPlanes + plane) * kTileSize, x.stride};
}

template <int LINES, int COLUMNS>
TRPO_INLINE void multiply() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (COLUMNS > 1) _tile_dpbf16ps(1, 4, 7);
  if constexpr (LINES > 1) _tile_dpbf16ps(2, 5, 6);
  if constexpr (LINES > 1 && COLUMNS > 1) _tile_dpbf16ps(3, 5, 7);
}

// The planes in an order that changes one operand at a time. `meanwhile` is called after each
// product: vector work there hides behind the tiles'.
template <int PLANES, int LINES, int COLUMNS, class F>
TRPO_INLINE void accumulate(const TileProduct& product, const F& meanwhile) {
  const auto a = [&](int step, int plane) { load_a<LINES>(plane_of(product.a, step, plane)); };
  const auto b = [&](int step, int plane) { load_b<COLUMNS>(plane_of(product.b, step, plane)); };
  const auto multiply_all = [&] {
    multiply<LINES, COLUMNS>();
    meanwhile();
  };
  compiler_barrier();
  for (int step = 0; step < product.steps; ++step) {
    a(step, 0);
    if constexpr (PLANES == 3) {
      b(step, 2);
      multiply_all();
    }
    b(step, 1);
    multiply_all();
    if constexpr (PLANES == 3) {
      a(step, 1);
      multiply_all();
      b(step, 0);
      multiply_all();
      a(step, 2);
      multiply_all();
      a(step, 0);
      multiply_all();
    } else {
      b(step, 0);
      multiply_all();
      a(step, 1);
      multiply_all();
    }
  }
}

template <int LINES, int COLUMNS>
TRPO_INLINE void zero_square() {
  _tile_zero(0);
  if constexpr (COLUMNS > 1) _tile_zero(1);
  if constexpr (LINES > 1) _tile_zero(2);
  if constexpr (LINES > 1 && COLUMNS > 1) _tile_zero(3);
}

template <int LINES, int COLUMNS>
TRPO_INLINE void load_square(const float* c, int64_t ld) {
  const int64_t bytes = ld * 4;
  compiler_barrier();
  _tile_loadd(0, c, bytes);
  if constexpr (COLUMNS > 1) _tile_loadd(1, c + kTileLines, bytes);
  if constexpr (LINES > 1) _tile_loadd(2, c + kTileLines * ld, bytes);
  if constexpr (LINES > 1 && COLUMNS > 1) _tile_loadd(3, c + kTileLines * ld + kTileLines, bytes);
}

template <int LINES, int COLUMNS>
TRPO_INLINE void store_square(float* c, int64_t ld) {
  const int64_t bytes = ld * 4;
  _tile_stored(0, c, bytes);
  if constexpr (COLUMNS > 1) _tile_stored(1, c + kTileLines, bytes);
  if constexpr (LINES > 1) _tile_stored(2, c + kTileLines * ld, bytes);
  if constexpr (LINES > 1 && COLUMNS > 1) {
    _tile_stored(3, c + kTileLines * ld + kTileLines, bytes);
  }
  compiler_barrier();
}

TRPO_INLINE TileProduct at(const TileProduct& product, int a_group, int b_group) {
  return {{product.a.base + a_group * product.a.stride, product.a.stride},
          {product.b.base + b_group * product.b.stride, product.b.stride},
          product.steps};
}

// The square before the one that is being multiplied, on its way through the epilogue.
template <int COLUMNS, class Epilogue>
struct Pending {
  const Epilogue& epilogue;
  int column, row = 0, next = kTileLines;  // pairs of rows from `next` on remain
  const float* square = nullptr;

  TRPO_INLINE void take(int pairs) {
    for (; pairs > 0 && next < kTileLines; --pairs, ++next) {
      epilogue.template operator()<COLUMNS>(row, column, square, next);
    }
  }
  TRPO_INLINE void replace(int with_row, const float* with) {
    take(kTileLines);
    row = with_row;
    square = with;
    next = 0;
  }
};

template <int PLANES, int COLUMNS, class Epilogue>
TRPO_INLINE void rows_columns(const TileProduct* products, int count, int rows, int group,
                              const Epilogue& epilogue) {
  alignas(64) float squares[2][kSquare * kSquare];
  int steps = 0;
  for (int p = 0; p < count; ++p) steps += products[p].steps;
  const int times = steps * kProducts<PLANES>, pairs = (kTileLines + times - 1) / times;
  Pending<COLUMNS, Epilogue> pending{epilogue, group * kTileLines};
  for (int m = 0; m < rows; m += kSquare) {
    zero_square<2, COLUMNS>();
    for (int p = 0; p < count; ++p) {
      accumulate<PLANES, 2, COLUMNS>(at(products[p], m / kTileLines, group),
                                     [&] { pending.take(pairs); });
    }
    float* square = squares[m / kSquare % 2];
    store_square<2, COLUMNS>(square, kSquare);
    pending.replace(m, square);
  }
  pending.take(kTileLines);
}

// `rows` is a multiple of 32, n of 16. The sums come out in squares of 32 rows by 16 COLUMNS, row
// stride kSquare: epilogue.operator()<COLUMNS>(row, column, square, j) takes its rows j and j + 16.
// It works on one square while the tiles multiply the next.
template <int PLANES, class Epilogue>
TRPO_INLINE void rows_product(const TileProduct* products, int count, int rows, int n,
                              const Epilogue& epilogue) {
  const int groups = n / kTileLines;
  for (int group = 0; group + 2 <= groups; group += 2) {
    rows_columns<PLANES, 2>(products, count, rows, group, epilogue);
  }
  if (groups % 2) rows_columns<PLANES, 1>(products, count, rows, groups - 1, epilogue);
}

// C[m, n] in panels of kPanel columns, [n / kPanel][m][panel], the last as narrow as n leaves it.
struct TileGrad {
  TileProduct product;
  int m, n;  // n a multiple of 16
  float* c;
  bool add;  // false: C is written, not added to
};

template <int PLANES, int LINES, int COLUMNS>
void grad_square(const TileGrad& job, int m, int n) {
  const int panel = n / kPanel * kPanel, ld = job.n - panel < kPanel ? job.n - panel : kPanel;
  float* c = job.c + int64_t{panel} * job.m + int64_t{m} * ld + (n - panel);
  const TileProduct product = at(job.product, m / kTileLines, n / kTileLines);
  const bool whole = m + LINES * kTileLines <= job.m;
  if (whole && job.add) {
    load_square<LINES, COLUMNS>(c, ld);
  } else {
    zero_square<LINES, COLUMNS>();
  }
  accumulate<PLANES, LINES, COLUMNS>(product, [] {});
  if (whole) return store_square<LINES, COLUMNS>(c, ld);
  alignas(64) float square[kSquare * kSquare];
  store_square<LINES, COLUMNS>(square, kSquare);
  for (int i = 0; m + i < job.m; ++i, c += ld) {
    for (int j = 0; j < COLUMNS * kTileLines; j += kVector) {
      const V sum = load(square + i * kSquare + j);
      store(c + j, job.add ? load(c + j) + sum : sum);
    }
  }
}

template <int PLANES, int COLUMNS>
TRPO_INLINE void grad_columns(const TileGrad& job, int n) {
  const int lines = tiles_over(job.m);
  for (int line = 0; line + 2 <= lines; line += 2) {
    grad_square<PLANES, 2, COLUMNS>(job, line * kTileLines, n);
  }
  if (lines % 2) grad_square<PLANES, 1, COLUMNS>(job, (lines - 1) * kTileLines, n);
}

template <int PLANES>
TRPO_INLINE void grad_product(const TileGrad& job) {
  int n = 0;
  for (; n + kSquare <= job.n; n += kSquare) grad_columns<PLANES, 2>(job, n);
  if (n < job.n) grad_columns<PLANES, 1>(job, n);
}

}  // namespace
}  // namespace trpo_fast::cpu
