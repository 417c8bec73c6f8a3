// The table of kernels that every isa_*.cpp fills in: the stages on one block of rows, and the
// vector operations of CG. C symbols and function pointers only, so that code compiled for one
// instruction set is reached only through the table chosen at run time.
#pragma once
#include "cpu/kernels/factor_plan.h"
#include "cpu/kernels/plan.h"

namespace trpo_fast::cpu {

struct AdamStep {
  float beta1, beta2, eps;
  float rate;                // learning rate / (1 - beta1^t)
  float inverse_correction;  // 1 / (1 - beta2^t)
};

struct CpuKernels {
  int vector, panel, tile_rows;
  bool split;  // the products run in split precision

  // Null unless split: one of plan.split_pieces of packed parameters, or of a packed v, as
  // operands; a whole back pack as operands; block.input_columns from what a forward left.
  void (*split_weights)(const Plan&, const float* packed, int64_t piece, uint16_t* operands);
  void (*split_v)(const Plan&, const float* packed, int64_t piece, uint16_t* operands);
  void (*split_back)(const Plan&, const float* back, uint16_t* operands);
  void (*split_inputs)(const Plan&, const Block&);

  // h_l = act(W_l h_{l-1} + b_l) into block.hidden and block.slope; z into block.outputs.
  void (*forward)(const Plan&, const Weights& theta, const Block&);
  // dh_l = act' (W_l dh_{l-1} + V_l h_{l-1} + v_l) into block.tangent; J v into block.outputs.
  void (*jvp)(const Plan&, const Weights& theta, const Weights& v, const Block&);
  // outputs <- scale_n M outputs, with the factors of heads.h [padded_rows, factors_ld] (one row of
  // them for kGaussian). scale [rows], or null for `uniform` everywhere; rows past the end become zero.
  void (*metric)(const Plan&, const float* factors, const float* scale, float uniform,
                 const Block&);
  // Factors of the metric from the outputs z of a block.
  void (*metric_factors)(const Plan&, const float* theta, const uint8_t* mask, const Block&,
                         float* factors);
  // J' outputs, added to `gradient` (packed), or written to it if `first`.
  void (*vjp)(const Plan&, const Weights&, const Block&, float* gradient, bool first);

  // What a block adds to the sums of FactorPlan, or writes to them if `first`: block.outputs holds
  // S xi times the square roots of the rows' weights `scale` (null: all one). planes: three of
  // [block_rows, widest].
  void (*factors)(const Plan&, const FactorPlan&, const Weights&, const Block&, const float* scale,
                  float* const* planes, float* sums, bool first);
  // A [n, n] <- minus its inverse, lower triangles, n a multiple of 8; 16 n doubles of scratch follow
  // A. False where A is not positive definite.
  bool (*negative_inverse)(double* a, int n);
  // One piece of z = M^-1 r on map l, all packed; scratch: two of [kPieceRows, widest].
  void (*precondition)(const Plan&, const FactorPlan&, int l, int piece, const float* inverses,
                       const float* r, float* scratch, float* z);

  // out[i] = sum of part[lane * stride + i] over lanes, in order; i in [begin, end)
  void (*sum_lanes)(const float* part, int64_t lanes, int64_t stride, int64_t begin, int64_t end,
                    float* out);
  double (*dot)(const float* a, const float* b, int64_t n);
  void (*axpy)(float alpha, const float* x, float* y, int64_t n);  // y += alpha x
  void (*xpby)(const float* x, float beta, float* y, int64_t n);   // y = x + beta y
  bool (*all_finite)(const float* x, int64_t n);

  // The whole net on `vectors` (1 or 2) times `vector` rows: obs [O, rows] and all planes have a row
  // in each column, theta is flat, the planes hold the widest layer each. Returns the outputs
  // [Z, rows], in one of the planes.
  const float* (*forward_columns)(const NetShape& net, const float* theta, const float* obs,
                                  float* const* planes, int vectors);
  // One step of Adam with g[i] = sum of part[lane * stride + i] over lanes, in order; n whole
  // vectors.
  void (*adam)(const AdamStep& step, const float* part, int64_t lanes, int64_t stride, float* theta,
               float* m, float* v, int64_t n);
};

extern "C" {
const CpuKernels* trpo_fast_kernels_base();
const CpuKernels* trpo_fast_kernels_avx2();
const CpuKernels* trpo_fast_kernels_avx512();
void trpo_fast_replace_products_amx(CpuKernels* kernels, int planes);
}

}  // namespace trpo_fast::cpu
