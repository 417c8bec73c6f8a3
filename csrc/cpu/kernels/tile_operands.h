// Operands of tile products (split.h) from what the stages keep: weights and v, observations,
// cached activations, and a square of sums on its way into the next product.
#pragma once
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/tiles.h"

namespace trpo_fast::cpu {
namespace {

// ---- of whole matrices

// Columns [n, n + 16) of a matrix in panels [n_pad / kPanel][k][kPanel], as one group of lines.
template <int PLANES>
void split_panel(const float* panels, int k, int n_pad, int n, uint16_t* operand) {
  const int panel = n / kPanel * kPanel, ld = n_pad - panel < kPanel ? n_pad - panel : kPanel;
  const float* from = panels + int64_t{panel} * k + (n - panel);
  uint16_t* to = operand + n / kTileLines * operand_stride(k);
  for (int step = 0; step < steps_over(k); ++step, to += kPlanes * kTileSize) {
    for (int j = 0; j < kTileLines; ++j) {
      const int first = step * kTileDepth + j, second = first + kTileLines;
      store_pairs(to, j, split<PLANES>(first < k ? load(from + int64_t{first} * ld) : V{}),
                  split<PLANES>(second < k ? load(from + int64_t{second} * ld) : V{}));
    }
  }
}

template <int PLANES>
void split_weights(const Plan& plan, const float* packed, int64_t piece, uint16_t* operands) {
  int l = 0;
  while (piece >= tiles_over(plan.map[l].out)) piece -= tiles_over(plan.map[l++].out);
  const MapPlan& map = plan.map[l];
  split_panel<PLANES>(packed + map.weight, map.in, map.out_pad,
                      static_cast<int>(piece) * kTileLines, operands + map.split);
}

template <int PLANES>
void split_back(const Plan& plan, const float* back, uint16_t* operands) {
  for (int l = 1; l < plan.net.maps; ++l) {
    const MapPlan& map = plan.map[l];
    for (int n = 0; n < map.in_pad; n += kTileLines) {
      split_panel<PLANES>(back + map.back, map.out, map.in_pad, n, operands + map.back_split);
    }
  }
}

// The first `count` of 16 floats that need not be aligned; zeros after them.
TRPO_INLINE V load_first(const float* from, int count) {
  const int lanes = count < 0 ? 0 : count < kVector ? count : kVector;
  const __mmask16 mask = static_cast<__mmask16>((1u << lanes) - 1u);
  return reinterpret_cast<V>(_mm512_maskz_loadu_ps(mask, from));
}

// Rows of obs as lines.
void split_obs(const Plan& plan, const Block& block) {
  const int width = plan.map[0].in;
  for (int m = 0; m < block.padded_rows; ++m) {
    const float* from = block.obs + int64_t{m} * width;
    uint16_t* to = block.input_rows[0] + m / kTileLines * operand_stride(width);
    for (int k = 0; k < width; k += kTileDepth, to += kPlanes * kTileSize) {
      const int second = k + kTileLines < width ? k + kTileLines : k;  // stays inside the row
      store_pairs(to, m % kTileLines, split<kPlanes>(load_first(from + k, width - k)),
                  split<kPlanes>(load_first(from + second, width - k - kTileLines)));
    }
  }
}

template <int HALF, int... I>
TRPO_INLINE void exchange(V& a, V& b, Lanes<I...>) {
  const V low = __builtin_shufflevector(a, b, (I & HALF ? I - HALF + kVector : I)...);
  b = __builtin_shufflevector(a, b, (I & HALF ? I + kVector : I + HALF)...);
  a = low;
}

template <int HALF = kVector / 2>
TRPO_INLINE void transpose(V (&x)[kVector]) {
  for (int i = 0; i < kVector; ++i) {
    if (!(i & HALF)) exchange<HALF>(x[i], x[i + HALF], typename CountLanes<kVector>::type());
  }
  if constexpr (HALF > 1) transpose<HALF / 2>(x);
}

// Columns of the inputs of every map as lines, k over the rows of the block.
template <int PLANES>
void split_inputs(const Plan& plan, const Block& block) {
  for (int l = 0; l < plan.net.maps; ++l) {
    const int width = plan.map[l].in, ld = l == 0 ? width : plan.ld[l];
    const float* from = l == 0 ? block.obs : block.hidden[l];
    for (int i = 0; i < width; i += kTileLines) {
      uint16_t* to = block.input_columns[l] + i / kTileLines * operand_stride(plan.block_rows);
      for (int m = 0; m < block.padded_rows; m += kTileDepth, to += kPlanes * kTileSize) {
        V first[kVector], second[kVector];
        for (int j = 0; j < kTileLines; ++j) {
          const float* row = from + int64_t{m + j} * ld + i;
          first[j] = load_first(row, width - i);
          second[j] = load_first(row + int64_t{kTileLines} * ld, width - i);
        }
        transpose(first);
        transpose(second);
        for (int j = 0; j < kTileLines; ++j) {
          store_pairs(to, j, split<PLANES>(first[j]), split<PLANES>(second[j]));
        }
      }
    }
  }
}

// ---- of a square of sums

struct RowPair {  // rows j and j + 16 of a square
  V x[2][2];
};

// f(row, column, sum) for the vectors of rows j and j + 16; columns that are not there are zero.
template <int COLUMNS, class F>
TRPO_INLINE RowPair row_pair(const float* square, int64_t ld, int j, const F& f) {
  RowPair pair = {};
  for (int r = 0; r < 2; ++r) {
    for (int c = 0; c < COLUMNS; ++c) {
      const int row = j + r * kTileLines;
      pair.x[r][c] = f(row, c * kVector, load(square + row * ld + c * kVector));
    }
  }
  return pair;
}

template <int PLANES, int COLUMNS>
struct RowParts {
  Parts<PLANES> x[2][2];
  TRPO_INLINE explicit RowParts(const RowPair& pair) {
    for (int r = 0; r < 2; ++r) {
      for (int c = 0; c < 2; ++c) x[r][c] = split<PLANES>(pair.x[r][c]);
    }
  }
  // As lines of rows: `tiles` of the square's first row.
  TRPO_INLINE void store_rows(uint16_t* tiles, int64_t stride, int j) const {
    for (int r = 0; r < 2; ++r) store_pairs(tiles + r * stride, j, x[r][0], x[r][1]);
  }
  // As lines of columns.
  TRPO_INLINE void store_columns(uint16_t* tiles, int64_t stride, int j) const {
    for (int c = 0; c < COLUMNS; ++c) store_pairs(tiles + c * stride, j, x[0][c], x[1][c]);
  }
};

// Tiles of the 32 x 32 square at (row, column) of an operand whose lines are rows `width` long.
TRPO_INLINE uint16_t* rows_tiles(uint16_t* operand, int width, int row, int column) {
  return operand + row / kTileLines * operand_stride(width) +
         column / kTileDepth * kPlanes * kTileSize;
}
TRPO_INLINE uint16_t* columns_tiles(uint16_t* operand, int depth, int row, int column) {
  return operand + column / kTileLines * operand_stride(depth) +
         row / kTileDepth * kPlanes * kTileSize;
}

}  // namespace
}  // namespace trpo_fast::cpu
