// How split precision lays out the operands of a tile product C[m, n] = A[m, k] B[k, n]. A float is
// the sum of kPlanes bfloat16 numbers, and an operand is cut into tiles of 16 lines (rows of A,
// columns of B) by 32 steps of k, 1 KiB each and plane by plane: [lines / 16][k / 32][plane][16][32].
// A tile of A holds one line a row; one of B holds two steps of k a row, interleaved. The two steps
// that share a 32-bit word are j and j + 16, so that either is made of whole vectors. Ends are zero.
//
// A product that needs less precision reads the first planes only: the layout is the same.
#pragma once
#include <cstdint>

namespace trpo_fast::cpu {
namespace {

constexpr int kTileLines = 16, kTileDepth = 32, kPlanes = 3;
constexpr int kTileSize = kTileLines * kTileDepth;  // 16-bit words

constexpr int tiles_over(int lines) { return (lines + kTileLines - 1) / kTileLines; }
constexpr int steps_over(int depth) { return (depth + kTileDepth - 1) / kTileDepth; }
// From one group of 16 lines to the next.
constexpr int64_t operand_stride(int depth) {
  return int64_t{steps_over(depth)} * kPlanes * kTileSize;
}
constexpr int64_t operand_size(int lines, int depth) {
  return tiles_over(lines) * operand_stride(depth);
}

}  // namespace
}  // namespace trpo_fast::cpu
