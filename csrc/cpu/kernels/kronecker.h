// precondition: z = G^-1 R A^-1 of one map, R = (W, b) in packed order, for one piece of the rows of the
// left factor: those of A^-1 R' G^-1 where R is packed by inputs, those of G^-1 R A^-1 of a narrow map.
#pragma once
#include "cpu/kernels/factor_plan.h"
#include "cpu/kernels/forward.h"

namespace trpo_fast::cpu {
namespace {

struct KroneckerPiece {
  const float *left, *right;  // at the piece's first row; whole
  int begin, rows;            // rows of the piece, whole tiles
  float *half, *whole;        // scratch, [kPieceRows, widest] each
};

// whole <- half right, [k, n].
void right_product(const KroneckerPiece& piece, int k, int n) {
  RowsJob job{};
  job.rows = piece.rows;
  job.n = n;
  job.products = 1;
  job.product[0] = {piece.half, n, Panels{piece.right, kPanel, n}, k};
  job.c = piece.whole;
  job.ldc = n;
  rows_product<NoEpilogue>(job);
}

void wide_piece(const MapPlan& map, int64_t ld, const KroneckerPiece& piece, const float* r,
                float* z) {
  RowsJob job{};
  job.rows = piece.rows;
  job.n = map.out_pad;
  job.products = 2;
  job.product[0] = {piece.left, ld, Panels{r + map.weight, int64_t{map.in} * kPanel, 0}, map.in};
  job.product[1] = {piece.left + map.in, ld, Panels{r + map.bias, kPanel, map.out_pad}, 1};
  job.c = piece.half;
  job.ldc = map.out_pad;
  rows_product<NoEpilogue>(job);
  right_product(piece, map.out, map.out_pad);
  for (int m = 0; m < piece.rows; ++m) {
    const int i = piece.begin + m;
    const float* from = piece.whole + int64_t{m} * map.out_pad;
    if (i > map.in) break;
    for (int n = 0; n < map.out_pad; n += kPanel) {
      const int width = map.out_pad - n < kPanel ? map.out_pad - n : kPanel;
      float* to = i == map.in ? z + map.bias + n
                              : z + map.weight + int64_t{n} * map.in + int64_t{i} * width;
      for (int o = 0; o < width; o += kVector) store(to + o, load(from + n + o));
    }
  }
}

void narrow_piece(const MapPlan& map, int64_t ld, int wide, const KroneckerPiece& piece,
                  const float* r, float* z) {
  RowsJob job{};
  job.rows = piece.rows;
  job.n = map.in_pad;
  job.products = 1;
  job.product[0] = {piece.left, ld, Panels{r + map.weight, kPanel, map.in_pad}, map.out};
  job.c = piece.half;
  job.ldc = wide;
  rows_product<NoEpilogue>(job);
  for (int m = 0; m < piece.rows; ++m) {
    float sum = 0.0f;
    for (int o = 0; o < map.out; ++o) sum += piece.left[m * ld + o] * r[map.bias + o];
    piece.half[int64_t{m} * wide + map.in] = sum;
  }
  right_product(piece, map.in + 1, wide);
  for (int m = 0; m < piece.rows && piece.begin + m < map.out; ++m) {
    const float* from = piece.whole + int64_t{m} * wide;
    float* to = z + map.weight + int64_t{piece.begin + m} * map.in_pad;
    for (int i = 0; i < map.in; ++i) to[i] = from[i];
    z[map.bias + piece.begin + m] = from[map.in];
  }
}

// Task `piece` of map l. What padding z has is left as it is.
void kronecker_piece(const Plan& plan, const FactorPlan& factors, int l, int piece,
                     const float* inverses, const float* r, float* scratch, float* z) {
  const MapPlan& map = plan.map[l];
  const InversePlan& left = map.narrow ? factors.outputs[l] : factors.inputs[l];
  const InversePlan& right = map.narrow ? factors.inputs[l] : factors.outputs[l];
  const int begin = piece * kPieceRows, rest = left.rows - begin;
  const KroneckerPiece at{inverses + left.at + int64_t{begin} * left.ld,
                          inverses + right.at,
                          begin,
                          rest < kPieceRows ? rest : kPieceRows,
                          scratch,
                          scratch + int64_t{kPieceRows} * factors.widest};
  if (map.narrow) {
    narrow_piece(map, left.ld, right.ld, at, r, z);
  } else {
    wide_piece(map, left.ld, at, r, z);
  }
}

}  // namespace
}  // namespace trpo_fast::cpu
