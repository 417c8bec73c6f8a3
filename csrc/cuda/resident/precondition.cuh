// Stage precondition: z = G^-1 R A^-1 for every map's share R of the residual, log_std's scaled. Quads of
// columns are shared out among the blocks, which costs one more grid barrier a product: alone, every
// block would multiply for longer than a barrier takes, from 64-64 on (predicted: 10 000 cycles to 4 000).
#pragma once
#include "cuda/resident/inverses.cuh"

namespace trpo_fast::cuda {
namespace {

__device__ __forceinline__ float* direction(const KernelArgs& a) {
  return reinterpret_cast<float*>(a.scratch + a.factors.direction);
}

// Sums over aligned groups of `lanes` lanes of a warp, in every one of them.
__device__ __forceinline__ float4 group_sum(float4 value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    value.x += __shfl_xor_sync(kFullWarp, value.x, offset);
    value.y += __shfl_xor_sync(kFullWarp, value.y, offset);
    value.z += __shfl_xor_sync(kFullWarp, value.z, offset);
    value.w += __shfl_xor_sync(kFullWarp, value.w, offset);
  }
  return value;
}

// How a map's outputs are shared out among the threads of a block: `lanes` of them to one output.
struct OutputPlace {
  int output, lane, lanes;
};

__device__ __forceinline__ OutputPlace output_place(int outputs) {
  int lanes = 32;
  while (lanes * outputs > kThreads) lanes /= 2;
  return {int(threadIdx.x) / lanes, int(threadIdx.x) % lanes, lanes};
}

// Four neighbouring columns of A^-1, which is symmetric, in a quad of rows.
struct FourColumns {
  float4 column[4];
};

// R A^-1 of one output in four columns, of which `columns` is the first.
__device__ __forceinline__ float4 times_inputs(const float* r, const float* columns, int side,
                                               int quads, const OutputPlace& at) {
  float4 sum = make_float4(0, 0, 0, 0);
  each_loaded<3>(
      at.lane, quads, at.lanes,
      [&](int q) {
        FourColumns found;
#pragma unroll
        for (int i = 0; i < 4; ++i) found.column[i] = load4_global(columns + i * side + 4 * q);
        return found;
      },
      [&](int q, const FourColumns& found) {
        const float4 x = load4(r + 4 * q);
        fused(sum.x, x, found.column[0]);
        fused(sum.y, x, found.column[1]);
        fused(sum.z, x, found.column[2]);
        fused(sum.w, x, found.column[3]);
      });
  return group_sum(sum, at.lanes);
}

constexpr int kEarlyOutputs = 4;  // quads of a lane: of all 64 outputs

// The first of a row of G^-1 that a lane takes, under way before there is anything to multiply with it.
struct OutputsEarly {
  float4 row[kEarlyOutputs];
};

__device__ __forceinline__ OutputsEarly load_outputs(const float* row, int quads,
                                                     const OutputPlace& at) {
  OutputsEarly early;
#pragma unroll
  for (int i = 0; i < kEarlyOutputs; ++i)
    early.row[i] = load4_global(row + 4 * min(at.lane + i * at.lanes, quads - 1));
  return early;
}

// G^-1 Y of one output in the same columns; y: [outputs up to a quad] of shared memory.
__device__ __forceinline__ float4 times_outputs(const float* row, const OutputsEarly& early,
                                                const float4* y, int quads, const OutputPlace& at) {
  float4 sum = make_float4(0, 0, 0, 0);
  const auto add = [&](int q, float4 g) {
    sum = axpy4(g.x, y[4 * q], sum);
    sum = axpy4(g.y, y[4 * q + 1], sum);
    sum = axpy4(g.z, y[4 * q + 2], sum);
    sum = axpy4(g.w, y[4 * q + 3], sum);
  };
#pragma unroll
  for (int i = 0; i < kEarlyOutputs; ++i)
    if (at.lane + i * at.lanes < quads) add(at.lane + i * at.lanes, early.row[i]);
  each_loaded<4>(
      at.lane + kEarlyOutputs * at.lanes, quads, at.lanes,
      [&](int q) { return load4_global(row + 4 * q); }, add);
  return group_sum(sum, at.lanes);
}

// One quad of a map's columns. Returns the thread's share of r'z.
__device__ __forceinline__ double block_precondition_quad(const KernelArgs& a, const Block& b,
                                                          int map, int quad) {
  const MapLayout& m = a.layout.map[map];
  const FactorPlace &inputs = a.factors.factor[2 * map], &outputs = a.factors.factor[2 * map + 1];
  const int stride = m.stride_in, column = m.weights + 4 * quad;
  float* z = direction(a) + column;
  if (4 * quad >= inputs.size) {  // nothing but padding
    for (int o = threadIdx.x; o < m.out; o += kThreads)
      store4(z + o * stride, make_float4(0, 0, 0, 0));
    return 0;
  }
  const OutputPlace at = output_place(m.out);
  const int output = min(at.output, m.out - 1), quads = ceil_div(m.out, 4);
  const bool own = at.output < m.out && at.lane == 0;
  float4* y = reinterpret_cast<float4*>(b.reduce);
  const float* row = factor_inverse(a, 2 * map + 1) + output * outputs.blocks * kFactorSide;
  const OutputsEarly early = load_outputs(row, quads, at);
  const int side = inputs.blocks * kFactorSide;
  const float4 moved =
      times_inputs(b.residual + m.weights + output * stride,
                   factor_inverse(a, 2 * map) + 4 * quad * side, side, row_quads(m.in), at);
  __syncthreads();  // readers of the last columns are done
  if (own) y[output] = moved;
  if (int(threadIdx.x) < 4 * quads - m.out) y[m.out + threadIdx.x] = make_float4(0, 0, 0, 0);
  __syncthreads();  // R A^-1 is complete in these columns
  const float4 found = times_outputs(row, early, y, quads, at);
  if (!own) return 0;
  store4(z + output * stride, found);
  return dot4(load4(b.residual + column + output * stride), found);
}

// z = M^-1 r, packed, into `direction`, r being complete; the blocks' shares of r'z are published. Closes with
// a grid barrier.
__device__ __forceinline__ void block_precondition(const KernelArgs& a, const Block& b) {
  const Layout& l = a.layout;
  double share = 0;
  for (int unit = b.index; unit < a.factors.units; unit += b.grid) {
    int map = 0, quad = unit;
    while (quad >= l.map[map].stride_in / 4) quad -= l.map[map++].stride_in / 4;
    share += block_precondition_quad(a, b, map, quad);
  }
  if (l.log_std >= 0 && b.index == b.grid - 1 && int(threadIdx.x) < padded(l.actions) / 4) {
    const float scale = 1.0f / (a.kl_scale * kLogStdCurvature + a.damping);
    const int at = l.log_std + 4 * threadIdx.x;
    const float4 r = load4(b.residual + at), z = axpy4(scale, r, make_float4(0, 0, 0, 0));
    store4(direction(a) + at, z);
    share += dot4(r, z);
  }
  const double all[1] = {block_sum(share, reinterpret_cast<double*>(b.reduce))};
  publish(b, kRegionSearch, all);
  grid_sync();  // z and the blocks' shares of r'z are complete
}

}  // namespace
}  // namespace trpo_fast::cuda
