// Row sets, blocks and caches.
#include "cpu/operator/rows.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels/split.h"

namespace trpo_fast::cpu {
namespace {

// A lane costs one vector of P floats to write and to add up. Its rows must be worth that: few rows
// will do while all lanes' vectors stay in a cache.
constexpr int64_t kCachedBytes = 1 << 20;
constexpr int64_t kRowsCached = 170, kRowsUncached = 1024;
constexpr int64_t kMaxLanes = 48;

// At most `most`, and a number that 2, 3, 4 and 6 threads divide where there are enough.
int64_t even_number(int64_t most) {
  if (most >= 12) return most / 12 * 12;
  for (int64_t lanes : {8, 6, 4, 2}) {
    if (most >= lanes) return lanes;
  }
  return 1;
}

Lanes cut(const Plan& plan, int block_rows, int64_t count) {
  Lanes lanes;
  lanes.blocks = (count + block_rows - 1) / block_rows;
  int64_t most = std::min(count / kRowsCached, kMaxLanes);
  const int64_t bytes = plan.size * static_cast<int64_t>(sizeof(float));
  if (most * bytes > kCachedBytes) {
    most = std::min(most, std::max(kCachedBytes / bytes, count / kRowsUncached));
  }
  lanes.count = count ? std::min(even_number(most), lanes.blocks) : 0;
  return lanes;
}

// Rows that the busier of two threads gets when each takes the next lane as soon as it is free.
int64_t rows_of_busier(const Lanes& lanes, int block_rows, int64_t count) {
  int64_t done[2] = {0, 0};
  for (int64_t lane = 0; lane < lanes.count; ++lane) {
    const int64_t begin = lanes.begin(lane) * block_rows;
    const int64_t end = std::min(lanes.begin(lane + 1) * block_rows, count);
    done[done[1] < done[0]] += end - begin;
  }
  return std::max(done[0], done[1]);
}

// One block of the inputs of map l in split precision.
int64_t rows_operand(const Plan& plan, int l) {
  return operand_size(plan.block_rows, plan.map[l].in);
}
int64_t columns_operand(const Plan& plan, int l) {
  return operand_size(plan.map[l].in, plan.block_rows);
}

}  // namespace

int balanced_block_rows(const Plan& plan, int64_t count) {
  int best = plan.block_rows;
  int64_t least = count + 1;
  for (int rows = best; 3 * rows >= 2 * plan.block_rows; rows -= plan.tile_rows) {
    const int64_t busier = rows_of_busier(cut(plan, rows, count), rows, count);
    if (busier < least) best = rows, least = busier;
  }
  return best;
}

Workspace::Workspace(const Plan& plan) {
  const int64_t rows = plan.block_rows, maps = plan.net.maps;
  obs = Array<float>(rows * plan.ld[0]);
  mask = Array<uint8_t>(plan.net.factors ? rows * plan.net.width[maps] : 0);
  outputs = Array<float>::zeros(rows * plan.ld[maps]);
  before = Array<float>::zeros(rows * plan.ld[maps]);
  factors = Array<float>(rows * plan.factors_ld);
  second = Array<float>(2 * plan.log_std_count);
  for (int l = 1; l < maps; ++l) {
    hidden[l] = Array<float>(rows * plan.ld[l]);
    if (!plan.split) tangent[l] = Array<float>(rows * plan.ld[l]);
    if (needs_slope_plane(plan.net.activation)) slope[l] = Array<float>(rows * plan.ld[l]);
  }
  if (!plan.split) return;
  int64_t widest = 0;
  for (int l = 0; l < maps; ++l) {
    input_rows[l] = Array<uint16_t>(rows_operand(plan, l));
    input_columns[l] = Array<uint16_t>(columns_operand(plan, l));
    widest = std::max<int64_t>(widest, plan.map[l].out);
  }
  for (auto& operand : this->rows) operand = Array<uint16_t>(operand_size(rows, widest));
  columns = Array<uint16_t>(operand_size(widest, rows));
}

void Workspace::reserve_factors(const Plan& plan, const FactorPlan& factors) {
  for (auto& plane : planes) plane.reserve(int64_t{plan.block_rows} * factors.widest);
  products.reserve(2 * int64_t{kPieceRows} * factors.widest);
  int64_t most = 0;
  for (int l = 0; l < plan.net.maps; ++l) {
    most = std::max<int64_t>(most, std::max(factors.inputs[l].n, factors.outputs[l].n));
  }
  matrix.reserve((most + 8) * (most + 8 + 16));
}

int64_t Workspace::bytes() const {
  int64_t total = obs.bytes() + mask.bytes() + outputs.bytes() + before.bytes() + factors.bytes() +
                  second.bytes();
  for (const auto& plane : planes) total += plane.bytes();
  total += products.bytes() + matrix.bytes();
  for (int l = 0; l < kMaxMaps; ++l) {
    total += hidden[l].bytes() + slope[l].bytes() + tangent[l].bytes() + input_rows[l].bytes() +
             input_columns[l].bytes();
  }
  return total + rows[0].bytes() + rows[1].bytes() + columns.bytes();
}

RowSet::RowSet(const Plan& plan, const Rows& rows, const int64_t* subset, int64_t subset_count)
    : plan_(plan), rows_(rows), block_rows_(plan.block_rows) {
  if (subset || rows.weights) {
    select(subset, subset_count);
  } else {
    count_ = rows.count;
    total_ = static_cast<double>(count_);
  }
  lanes_ = cut(plan, block_rows_, count_);
  if (rows.weights && total_ > 0) {
    scale_ = Array<float>(count_);
    for (int64_t i = 0; i < count_; ++i) scale_[i] = static_cast<float>(weight(i) / total_);
  }
}

// Keeps the indices only where they say something. Indices that a caller gave may name rows that do
// not exist: those are not followed, and make the total NaN.
void RowSet::select(const int64_t* subset, int64_t subset_count) {
  const int64_t candidates = subset ? subset_count : rows_.count;
  Array<int64_t> index(candidates);
  for (int64_t i = 0, next = 0; i < candidates; ++i) {  // next: the least index that may follow
    const int64_t n = subset ? subset[i] : i;
    if (n < next || n >= rows_.count) {
      misindexed_ = true;
      continue;
    }
    next = n + 1;
    const double w = rows_.weights ? rows_.weights[n] : 1.0;
    if (!(w > 0.0)) continue;
    index[count_++] = n;
    total_ += w;
  }
  if (misindexed_) total_ = NAN;
  if (count_ < rows_.count) index_ = std::move(index);
}

void RowSet::allocate_cache() {
  if (cached_) return;
  const NetShape& net = plan_.net;
  const int64_t rows = lanes_.blocks * block_rows_;
  for (int l = 1; l < net.maps; ++l) {
    hidden_[l] = Array<float>(rows * plan_.ld[l]);
    if (needs_slope_plane(net.activation)) slope_[l] = Array<float>(rows * plan_.ld[l]);
  }
  outputs_ = Array<float>::zeros(rows * plan_.ld[net.maps]);
  const bool one_row = net.head == Head::kGaussian;
  factors_ = Array<float>((one_row ? 1 : rows) * plan_.factors_ld);
  for (int l = 0; plan_.split && l < net.maps; ++l) {
    input_rows_[l] = Array<uint16_t>(lanes_.blocks * rows_operand(plan_, l));
    input_columns_[l] = Array<uint16_t>(lanes_.blocks * columns_operand(plan_, l));
  }
  cached_ = true;
}

const float* RowSet::block_obs(int64_t b, int rows, Workspace& work) const {
  const int64_t width = plan_.ld[0], first = b * block_rows_;
  if (index_.size() == 0 && rows == block_rows_) return rows_.obs + first * width;
  float* to = work.obs.data();
  for (int m = 0; m < rows; ++m) {
    std::copy_n(rows_.obs + row(first + m) * width, width, to + m * width);
  }
  std::fill_n(to + rows * width, (block_rows_ - rows) * width, 0.0f);
  return to;
}

Block RowSet::block(int64_t b, Workspace& work, bool fresh) const {
  Block block{};
  const int64_t left = count_ - b * block_rows_;
  block.rows = static_cast<int>(std::min<int64_t>(left, block_rows_));
  block.padded_rows = (block.rows + plan_.tile_rows - 1) / plan_.tile_rows * plan_.tile_rows;
  block.obs = block_obs(b, block.rows, work);
  const bool own = fresh || !cached_;
  for (int l = 1; l < plan_.net.maps; ++l) {
    const int64_t at = b * block_rows_ * plan_.ld[l];
    block.hidden[l] = own ? work.hidden[l].data() : hidden_[l].data() + at;
    block.slope[l] = own ? work.slope[l].data() : slope_[l].data() + at;
    block.tangent[l] = work.tangent[l].data();
  }
  block.outputs = work.outputs.data();
  if (plan_.split) set_operands(b, own, work, &block);
  if (filled && !own && !plan_.split && b + 1 < lanes_.blocks) {
    set_prefetch(b + 1, &work.prefetch);
    block.prefetch = &work.prefetch;
  }
  return block;
}

// What block b reads, in the order it does. On tiles it lost: 5 % at width 256, 20 % at 64.
void RowSet::set_prefetch(int64_t b, Prefetch* prefetch) const {
  *prefetch = {};
  for (int l = 0; l < plan_.net.maps; ++l) {
    const int64_t floats = block_rows_ * plan_.ld[l], at = b * floats;
    if (l == 0 && index_.size() == 0) {
      prefetch->add(rows_.obs + at, std::min(floats, count_ * plan_.ld[0] - at));
    }
    if (l > 0) prefetch->add(hidden_[l].data() + at, floats);
    if (slope_[l].size() > 0) prefetch->add(slope_[l].data() + at, floats);
  }
}

void RowSet::set_operands(int64_t b, bool own, Workspace& work, Block* block) const {
  for (int l = 0; l < plan_.net.maps; ++l) {
    block->input_rows[l] =
        own ? work.input_rows[l].data() : input_rows_[l].data() + b * rows_operand(plan_, l);
    block->input_columns[l] = own ? work.input_columns[l].data()
                                  : input_columns_[l].data() + b * columns_operand(plan_, l);
  }
  for (int i = 0; i < 2; ++i) block->rows_split[i] = work.rows[i].data();
  block->columns_split = work.columns.data();
}

float* RowSet::outputs(int64_t b, Workspace& work) const {
  if (!cached_) return work.before.data();
  return outputs_.data() + b * block_rows_ * plan_.ld[plan_.net.maps];
}

float* RowSet::factors(int64_t b, Workspace& work) const {
  if (!cached_) return work.factors.data();
  const bool one_row = plan_.net.head == Head::kGaussian;
  return factors_.data() + (one_row ? 0 : b * block_rows_ * plan_.factors_ld);
}

const uint8_t* RowSet::mask(int64_t b, Workspace& work) const {
  if (!rows_.mask) return nullptr;
  const int64_t width = plan_.net.width[plan_.net.maps], first = b * block_rows_;
  if (index_.size() == 0) return rows_.mask + first * width;
  const int64_t rows = std::min<int64_t>(count_ - first, block_rows_);
  for (int64_t m = 0; m < rows; ++m) {
    std::copy_n(rows_.mask + row(first + m) * width, width, work.mask.data() + m * width);
  }
  return work.mask.data();
}

int64_t RowSet::bytes() const {
  int64_t total = index_.bytes() + scale_.bytes() + outputs_.bytes() + factors_.bytes();
  for (int l = 0; l < kMaxMaps; ++l) {
    total +=
        hidden_[l].bytes() + slope_[l].bytes() + input_rows_[l].bytes() + input_columns_[l].bytes();
  }
  return total;
}

}  // namespace trpo_fast::cpu
