// How the CPU core lays out parameters, for one net and one instruction set. Plain structs: the
// isa_*.cpp units read them too.
//
// Packed vectors. Everything the core multiplies with or accumulates into (theta, v,
// gradients, all vectors of CG) is kept in one packed order, so that nothing is rearranged inside a
// solve: a gradient comes out of the kernels exactly as the next v has to go in. Per map:
//   wide     W' cut into panels of `panel` outputs: [out_pad / panel][in][panel]
//   narrow   W row by row, [out][in_pad]: the last map of a net with hidden layers, whose few
//            outputs would leave most of a vector idle
// then the bias [out_pad]; log_std at the end. Rounded up to whole vectors; the padding is zero and
// stays zero. `back` packs W once more for the delta chain of wide maps: [in_pad / panel][out][panel].
#pragma once
#include <cstdint>

#include "cpu/kernels/prefetch.h"
#include "shared/params.h"

namespace trpo_fast::cpu {

// Whether act' does not follow from act's value, so that the forward keeps a plane of it.
constexpr bool needs_slope_plane(Activation activation) {
  return activation == Activation::kSilu || activation == Activation::kGelu;
}

struct MapPlan {
  int in, out;
  int in_pad, out_pad;  // rounded up to whole vectors
  bool narrow;
  int64_t weight, bias;       // offsets in a packed vector
  int64_t back;               // offset in the back pack; wide maps above the first
  int64_t split, back_split;  // offsets of the same as operands in split precision (split.h)
};

constexpr int kMaxProducts = 2;  // that add up to one output: the jvp's W dh and V h

struct Plan {
  NetShape net;
  int vector, panel, tile_rows;  // floats a vector, columns a panel, rows a tile
  int block_rows;                // a multiple of tile_rows
  int ld[kMaxMaps + 1];          // row stride of the inputs of map l, l > 0; of the outputs at L
  int factors_ld;                // row stride of the factors of the metric
  MapPlan map[kMaxMaps];
  int64_t log_std;  // offset in a packed vector
  int log_std_count;
  int64_t size, back_size;              // floats of a packed vector, of the back pack
  int64_t flat_size;                    // P
  bool split;                           // products in split precision: every map is wide
  int64_t split_size, back_split_size;  // 16-bit words
  int64_t split_pieces;                 // groups of 16 outputs, over all maps
};

// One block of rows at its first row. Buffers hold block_rows rows; rows past `rows` hold zeros in
// obs and finite values elsewhere, and contribute nothing because their deltas are zero.
struct Block {
  int rows;                  // valid rows
  int padded_rows;           // rounded up to whole tiles
  const float* obs;          // [padded_rows, O], row stride O
  float* hidden[kMaxMaps];   // h_l at [l], 1 <= l < L: [padded_rows, ld[l]]
  float* slope[kMaxMaps];    // act'(z_l) likewise, for silu and gelu
  float* tangent[kMaxMaps];  // dh_l of the jvp, then the deltas of the vjp
  float* outputs;            // [padded_rows, ld[L]]: z, J v, M J v in turn
  Prefetch* prefetch;        // or null: what the next block reads

  // Operands in split precision, with rows or with columns as lines.
  uint16_t* input_rows[kMaxMaps];     // inputs of map l
  uint16_t* input_columns[kMaxMaps];  // the same
  uint16_t* rows_split[2];            // dh of two maps in turn; deltas likewise
  uint16_t* columns_split;            // deltas
};

// What the maps multiply with: theta, or v (which has no `back`).
struct Weights {
  const float* packed;
  const float* back;
  const uint16_t* split;  // in split precision: packed and back as operands
  const uint16_t* back_split;
};

}  // namespace trpo_fast::cpu
