// forward, jvp and vjp of split precision on one block of rows: the stages of forward.h, jvp.h and
// vjp.h with their products on tiles. Every map is wide. What one product leaves is split at once
// into the operands of the next, while it is in L1.
#pragma once
#include "cpu/kernels/activation.h"
#include "cpu/kernels/tile_operands.h"

namespace trpo_fast::cpu {
namespace {

// ---- forward

template <Activation A>
TRPO_INLINE V activate_at(V z, float* value, float* slope) {
  if constexpr (vmath::slope_from_value(A)) {
    const V h = vmath::activate<A, V>(z);
    store(value, h);
    return h;
  } else {
    const auto result = vmath::activate_with_slope<A, V>(z);
    store(value, result.value);
    store(slope, result.slope);
    return result.value;
  }
}

TRPO_INLINE TileProduct with_weights(const MapPlan& map, const uint16_t* rows,
                                     const uint16_t* split) {
  const int64_t stride = operand_stride(map.in);
  return {{rows, stride}, {split + map.split, stride}, steps_over(map.in)};
}

// outputs = sums + bias
struct OutputEpilogue {
  const float* bias;
  float* c;
  int64_t ldc;
  template <int COLUMNS>
  TRPO_INLINE void operator()(int row, int column, const float* square, int j) const {
    row_pair<COLUMNS>(square, kSquare, j, [&](int r, int i, V sum) {
      store(c + (row + r) * ldc + column + i, sum + load(bias + column + i));
      return sum;
    });
  }
};

// Whatever the precision of the products with v, the net itself is evaluated in full.
void forward_on_tiles(const Plan& plan, const Weights& theta, const Block& block) {
  split_obs(plan, block);
  const int last = plan.net.maps - 1;
  for (int l = 0; l <= last; ++l) {
    const MapPlan& map = plan.map[l];
    const TileProduct product = with_weights(map, block.input_rows[l], theta.split);
    const float* bias = theta.packed + map.bias;
    const int64_t ld = plan.ld[l + 1];
    if (l == last) {
      return rows_product<kPlanes>(&product, 1, block.padded_rows, map.out_pad,
                                   OutputEpilogue{bias, block.outputs, ld});
    }
    float *hidden = block.hidden[l + 1], *slope = block.slope[l + 1];
    uint16_t* operand = block.input_rows[l + 1];
    with_activation(plan.net.activation, [&]<Activation A>() {
      const auto epilogue = [&]<int COLUMNS>(int row, int column, const float* square, int j) {
        const auto pair = row_pair<COLUMNS>(square, kSquare, j, [&](int r, int c, V sum) {
          const int64_t at = (row + r) * ld + column + c;
          return activate_at<A>(sum + load(bias + column + c), hidden + at, slope + at);
        });
        uint16_t* to = rows_tiles(operand, map.out, row, column);
        RowParts<kPlanes, COLUMNS>(pair).store_rows(to, operand_stride(map.out), j);
      };
      rows_product<kPlanes>(&product, 1, block.padded_rows, map.out_pad, epilogue);
    });
  }
}

// ---- jvp

template <int PLANES>
void jvp_on_tiles(const Plan& plan, const Weights& theta, const Weights& v, const Block& block) {
  const int last = plan.net.maps - 1;
  for (int l = 0; l <= last; ++l) {
    const MapPlan& map = plan.map[l];
    const TileProduct products[2] = {with_weights(map, block.input_rows[l], v.split),
                                     with_weights(map, block.rows_split[l % 2], theta.split)};
    const int count = l == 0 ? 1 : 2;
    const float* bias = v.packed + map.bias;
    const int64_t ld = plan.ld[l + 1];
    if (l == last) {
      return rows_product<PLANES>(products, count, block.padded_rows, map.out_pad,
                                  OutputEpilogue{bias, block.outputs, ld});
    }
    const float* source = slope_source(plan, block, l + 1);
    uint16_t* operand = block.rows_split[(l + 1) % 2];
    with_activation(plan.net.activation, [&]<Activation A>() {
      const auto epilogue = [&]<int COLUMNS>(int row, int column, const float* square, int j) {
        const auto pair = row_pair<COLUMNS>(square, kSquare, j, [&](int r, int c, V sum) {
          const V kept = load(source + (row + r) * ld + column + c);
          return (sum + load(bias + column + c)) * SlopeEpilogue<A>::slope(kept);
        });
        uint16_t* to = rows_tiles(operand, map.out, row, column);
        RowParts<PLANES, COLUMNS>(pair).store_rows(to, operand_stride(map.out), j);
      };
      rows_product<PLANES>(products, count, block.padded_rows, map.out_pad, epilogue);
    });
  }
}

// ---- vjp

// The deltas of map l's outputs, in rows j and j + 16 of a square: operands of both kinds, and the
// bias' gradient.
template <int PLANES, int COLUMNS, class F>
TRPO_INLINE void leave_deltas(const Plan& plan, int l, const Block& block, int row, int column,
                              const float* square, int64_t ld, int j, float* gradient, const F& f) {
  const MapPlan& map = plan.map[l];
  uint16_t* rows = l > 0 ? rows_tiles(block.rows_split[l % 2], map.out, row, column) : nullptr;
  uint16_t* columns = columns_tiles(block.columns_split, plan.block_rows, row, column);
  const auto pair = row_pair<COLUMNS>(square, ld, j, f);
  const RowParts<PLANES, COLUMNS> parts(pair);
  if (rows) parts.store_rows(rows, operand_stride(map.out), j);
  parts.store_columns(columns, operand_stride(plan.block_rows), j);
  float* bias = gradient + map.bias + column;
  for (int c = 0; c < COLUMNS; ++c) {
    float* to = bias + c * kVector;
    store(to, load(to) + (pair.x[0][c] + pair.x[1][c]));
  }
}

template <int PLANES>
void deltas_of_outputs(const Plan& plan, const Block& block, float* gradient) {
  const int last = plan.net.maps - 1;
  const int64_t ld = plan.ld[last + 1];
  const auto same = [](int, int, V x) { return x; };
  for (int row = 0; row < block.padded_rows; row += kSquare) {
    for (int column = 0; column < plan.map[last].out_pad; column += kSquare) {
      const float* from = block.outputs + row * ld + column;
      const bool whole = column + kSquare <= plan.map[last].out_pad;
      for (int j = 0; j < kTileLines; ++j) {
        whole
            ? leave_deltas<PLANES, 2>(plan, last, block, row, column, from, ld, j, gradient, same)
            : leave_deltas<PLANES, 1>(plan, last, block, row, column, from, ld, j, gradient, same);
      }
    }
  }
}

// From the deltas of map l's outputs to those of its inputs, the outputs of map l - 1.
template <int PLANES>
void deltas_below(const Plan& plan, int l, const Weights& theta, const Block& block,
                  float* gradient) {
  const MapPlan& map = plan.map[l];
  const int64_t stride = operand_stride(map.out), ld = plan.ld[l];
  const TileProduct product = {{block.rows_split[l % 2], stride},
                               {theta.back_split + map.back_split, stride},
                               steps_over(map.out)};
  const float* source = slope_source(plan, block, l);
  with_activation(plan.net.activation, [&]<Activation A>() {
    const auto epilogue = [&]<int COLUMNS>(int row, int column, const float* square, int j) {
      leave_deltas<PLANES, COLUMNS>(
          plan, l - 1, block, row, column, square, kSquare, j, gradient, [&](int r, int c, V sum) {
            return sum * SlopeEpilogue<A>::slope(load(source + (row + r) * ld + column + c));
          });
    };
    rows_product<PLANES>(&product, 1, block.padded_rows, map.in_pad, epilogue);
  });
}

template <int PLANES>
void vjp_on_tiles(const Plan& plan, const Weights& theta, const Block& block, float* gradient,
                  bool first) {
  const int last = plan.net.maps - 1;
  if (first) {
    for (int l = 0; l <= last; ++l) zero(gradient + plan.map[l].bias, plan.map[l].out_pad);
    zero(gradient + plan.log_std, plan.size - plan.log_std);
  }
  deltas_of_outputs<PLANES>(plan, block, gradient);
  const int64_t stride = operand_stride(plan.block_rows);
  for (int l = last; l >= 0; --l) {
    const MapPlan& map = plan.map[l];
    grad_product<PLANES>({{{block.input_columns[l], stride},
                           {block.columns_split, stride},
                           steps_over(block.padded_rows)},
                          map.in,
                          map.out_pad,
                          gradient + map.weight,
                          !first});
    if (l > 0) deltas_below<PLANES>(plan, l, theta, block, gradient);
  }
}

// ---- the kernels

void tile_forward(const Plan& plan, const Weights& theta, const Block& block) {
  with_tiles([&] { forward_on_tiles(plan, theta, block); });
}

template <int PLANES>
void tile_jvp(const Plan& plan, const Weights& theta, const Weights& v, const Block& block) {
  with_tiles([&] { jvp_on_tiles<PLANES>(plan, theta, v, block); });
}

template <int PLANES>
void tile_vjp(const Plan& plan, const Weights& theta, const Block& block, float* gradient,
              bool first) {
  with_tiles([&] { vjp_on_tiles<PLANES>(plan, theta, block, gradient, first); });
}

}  // namespace
}  // namespace trpo_fast::cpu
