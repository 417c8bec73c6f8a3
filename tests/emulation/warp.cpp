// Warp collectives: shuffles, votes, reductions, mma.sync, ldmatrix. A collective runs when the last
// lane of its mask arrives; that lane computes the result of all. Fragment maps are those of the
// PTX ISA, "Matrix Fragments for mma.m16n8k8 / m16n8k16" and "ldmatrix".
#include <algorithm>
#include <bit>
#include <cstring>

#include "fibers.h"

namespace emulation {

namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

// For what touches nothing but its own arrays and the lanes' fragments, which are arrays of a size
// that the type says: instrumented it is half of the time of a kernel that multiplies.
#define TRPO_UNCHECKED __attribute__((no_sanitize("address", "undefined")))

TRPO_UNCHECKED float from_tf32(uint32_t bits) {  // as hardware
  return std::bit_cast<float>(bits & 0xffffe000u);
}

TRPO_UNCHECKED float from_bf16(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

TRPO_UNCHECKED float from_fp16(uint32_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -tiny : tiny;
}

struct Fragments {
  float a[16][16], b[16][8], d[16][8];
};

TRPO_UNCHECKED void gather_tf32(Fiber* warp, Fragments* f) {
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2, pair = lane & 3;
    const uint32_t *a = warp[lane].matrix.a, *b = warp[lane].matrix.b;
    for (int i = 0; i < 4; ++i) f->a[group + 8 * (i & 1)][pair + 4 * (i >> 1)] = from_tf32(a[i]);
    for (int i = 0; i < 2; ++i) f->b[pair + 4 * i][group] = from_tf32(b[i]);
  }
}

TRPO_UNCHECKED void gather_16bit(Fiber* warp, float (*convert)(uint32_t), Fragments* f) {
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2, pair = lane & 3;
    const uint32_t *a = warp[lane].matrix.a, *b = warp[lane].matrix.b;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i)
        f->a[group + 8 * (i & 1)][2 * pair + 8 * (i >> 1) + half] =
            convert(a[i] >> 16 * half & 0xffff);
      for (int i = 0; i < 2; ++i)
        f->b[2 * pair + 8 * i + half][group] = convert(b[i] >> 16 * half & 0xffff);
    }
  }
}

// How tensor cores add: exact products and the accumulator are aligned to the largest exponent, cut off
// kExtraBits below fp32's last bit, added up without error, and the sum is cut off to fp32, always towards
// zero. Depth 16 takes two such sums, depth 8 of tf32 as well. This is the A100, the coarsest device that
// is served: an H100 makes one sum of it, with two extra bits (arXiv 2512.07004).
constexpr int kExtraBits = 1, kFusedBytes = 16, kNoExponent = -10000;

TRPO_UNCHECKED int exponent_of(
    float x) {  // of a product: not that of a result, which may be one more
  const int field = std::bit_cast<uint32_t>(x) >> 23 & 255;
  return x == 0 ? kNoExponent : field ? field - 127 : -126;
}

TRPO_UNCHECKED double power_of_two(int exponent) {
  return std::bit_cast<double>(uint64_t(exponent + 1023) << 52);
}

TRPO_UNCHECKED float cut_to_fp32(int32_t sum, double unit) {
  const uint32_t size = sum < 0 ? 0u - uint32_t(sum) : uint32_t(sum);
  const int beyond = std::max(int(std::bit_width(size)) - 24, 0);
  const double kept = double(size >> beyond << beyond) * unit;
  return static_cast<float>(sum < 0 ? -kept : kept);
}

// d += a b over `count` terms of one row and eight columns.
TRPO_UNCHECKED void add_fused(float* d, const float* a, const float (*b)[8], int count) {
  int largest[8];
  float finite = 0;
  for (int j = 0; j < 8; ++j) largest[j] = exponent_of(d[j]), finite += 0 * d[j];
  for (int k = 0; k < count; ++k)
    for (int j = 0; j < 8; ++j) {
      largest[j] = std::max(largest[j], exponent_of(a[k]) + exponent_of(b[k][j]));
      finite += 0 * a[k] * b[k][j];
    }
  if (finite != 0) {  // NaN: some operand is not finite, and nothing is cut off
    for (int k = 0; k < count; ++k)
      for (int j = 0; j < 8; ++j) d[j] += a[k] * b[k][j];
    return;
  }
  double per_unit[8];
  int32_t sum[8];
  for (int j = 0; j < 8; ++j) {
    largest[j] = std::max(largest[j], -126);
    per_unit[j] = power_of_two(23 + kExtraBits - largest[j]);
    sum[j] = static_cast<int32_t>(d[j] * per_unit[j]);
  }
  for (int k = 0; k < count; ++k)
    for (int j = 0; j < 8; ++j)
      sum[j] += static_cast<int32_t>(double(a[k]) * b[k][j] * per_unit[j]);
  for (int j = 0; j < 8; ++j)
    d[j] = cut_to_fp32(sum[j], power_of_two(largest[j] - 23 - kExtraBits));
}

TRPO_UNCHECKED void multiply(Fiber* warp, WarpOp op) {
  Fragments f;
  const bool tf32 = op == WarpOp::kMmaTf32;
  const int depth = tf32 ? 8 : 16, fused = kFusedBytes / (tf32 ? 4 : 2);
  if (tf32) gather_tf32(warp, &f);
  if (op == WarpOp::kMmaFp16) gather_16bit(warp, from_fp16, &f);
  if (op == WarpOp::kMmaBf16) gather_16bit(warp, from_bf16, &f);
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i)
      f.d[(lane >> 2) + 8 * (i >> 1)][2 * (lane & 3) + (i & 1)] = warp[lane].matrix.d[i];
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < depth; k += fused) add_fused(f.d[i], f.a[i] + k, f.b + k, fused);
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i)
      warp[lane].matrix.d[i] = f.d[(lane >> 2) + 8 * (i >> 1)][2 * (lane & 3) + (i & 1)];
  ++counters.mmas;
}

// Lanes 8m .. 8m+7 brought the eight rows (16 bytes each) of the m-th 8x8 matrix in matrix.a.
void load_matrix(Fiber* warp) {
  for (int m = 0; m < warp[0].matrix.count; ++m) {
    uint16_t tile[8][8];
    for (int row = 0; row < 8; ++row) memcpy(tile[row], warp[8 * m + row].matrix.a, 16);
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane >> 2, pair = 2 * (lane & 3);
      const bool across = warp[lane].matrix.transposed;
      const uint32_t low = across ? tile[pair][group] : tile[group][pair];
      const uint32_t high = across ? tile[pair + 1][group] : tile[group][pair + 1];
      warp[lane].matrix.out[m] = high << 16 | low;
    }
  }
}

// The lane a shuffle reads, by the rules of shfl.sync.
int source_lane(const Fiber& f) {
  const int segment = f.lane & ~(f.width - 1), end = segment + f.width;
  if (f.op == WarpOp::kShuffle) return segment + (f.parameter & (f.width - 1));
  if (f.op == WarpOp::kShuffleUp)
    return f.lane - f.parameter < segment ? f.lane : f.lane - f.parameter;
  if (f.op == WarpOp::kShuffleDown)
    return f.lane + f.parameter >= end ? f.lane : f.lane + f.parameter;
  const int partner = f.lane ^ f.parameter;
  return partner >= end ? f.lane : partner;
}

void shuffle(Fiber* warp, unsigned mask) {
  uint64_t before[32];
  for (unsigned rest = mask; rest; rest &= rest - 1)
    before[std::countr_zero(rest)] = warp[std::countr_zero(rest)].value;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    Fiber& f = warp[std::countr_zero(rest)];
    const int source = source_lane(f);
    if (!(mask >> source & 1)) fail("shuffle reads a lane outside its mask", f.site);
    f.value = before[source];
  }
}

uint32_t combine(WarpOp op, uint32_t a, uint32_t b, bool is_signed) {
  const bool less = is_signed ? static_cast<int32_t>(a) < static_cast<int32_t>(b) : a < b;
  switch (op) {
    case WarpOp::kReduceAdd:
      return a + b;
    case WarpOp::kReduceMin:
      return less ? a : b;
    case WarpOp::kReduceMax:
      return less ? b : a;
    case WarpOp::kReduceAnd:
      return a & b;
    case WarpOp::kReduceOr:
      return a | b;
    default:
      return a ^ b;
  }
}

void vote_or_reduce(Fiber* warp, WarpOp op, unsigned mask) {
  uint32_t result = 0;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    const uint32_t value = static_cast<uint32_t>(warp[lane].value);
    if (op == WarpOp::kBallot) {
      result |= (value & 1) << lane;
    } else {
      result = rest == mask ? value : combine(op, result, value, warp[lane].parameter != 0);
    }
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) warp[std::countr_zero(rest)].value = result;
}

// Whether every lane of my mask has arrived; fails when two of them wait for different things.
bool everybody_arrived(Fiber* me, Fiber* warp) {
  const unsigned mask = me->mask, alive = me->block->warps[me->warp].alive;
  if (!(mask >> me->lane & 1)) fail("warp collective: own lane is not in the mask", me->site);
  if (mask & ~alive)
    fail("warp collective: the mask names a lane that has exited or does not exist", me->site);
  bool all = true;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    Fiber& other = warp[std::countr_zero(rest)];
    const bool same = other.mask == mask && other.op == me->op &&
                      other.site.line == me->site.line && other.site.file == me->site.file;
    if (other.state != State::kAtWarp || (!same && !(other.mask >> me->lane & 1))) {
      all = false;  // also when it is in a collective of other lanes, from which it will come back
    } else if (!same) {
      fail_with(
          "divergent warp collective: block %u warp %d lane %d at %s:%d (mask %08x), lane %d "
          "at %s:%d (mask %08x)",
          me->block_index.x, me->warp, me->lane, me->site.file, me->site.line, mask, other.lane,
          other.site.file, other.site.line, other.mask);
    }
  }
  return all;
}

void arrive(Fiber* me) {
  Fiber* warp = me - me->lane;
  if (!everybody_arrived(me, warp)) return;
  const WarpOp op = me->op;
  const bool matrix = op >= WarpOp::kMmaTf32;
  if (matrix && me->mask != kAllLanes) fail("mma.sync and ldmatrix need all 32 lanes", me->site);
  ++counters.warp_ops;
  progress();
  if (op >= WarpOp::kShuffle && op <= WarpOp::kShuffleXor) shuffle(warp, me->mask);
  if (op >= WarpOp::kBallot && op <= WarpOp::kReduceXor) vote_or_reduce(warp, op, me->mask);
  if (op == WarpOp::kLoadMatrix) {
    load_matrix(warp);
  } else if (matrix) {
    multiply(warp, op);
  }
  for (unsigned rest = me->mask; rest; rest &= rest - 1) make_ready(&warp[std::countr_zero(rest)]);
}

}  // namespace

uint64_t warp_collective(WarpOp op, unsigned mask, uint64_t value, int parameter, int width,
                         Site site) {
  Fiber* me = self();
  me->op = op;
  me->mask = mask;
  me->value = value;
  me->parameter = parameter;
  me->width = width;
  me->site = site;
  me->state = State::kAtWarp;
  if (width < 1 || width > 32 || (width & (width - 1)))
    fail("shuffle: expected a width that is a power of two up to 32", site);
  const bool orders = op == WarpOp::kSync;  // shuffles, votes and mma order no memory
  Warp* warp = &me->block->warps[me->warp];
  const int leader = mask ? std::countr_zero(mask) : 0;
  const char* order = &warp->order[leader][warp->generation[leader] & 1];
  if (orders) publish(order);
  arrive(me);
  if (orders && me->state == State::kReady) ++warp->generation[leader];  // I was the last
  suspend();
  if (orders) receive(order);
  return me->value;
}

void warp_mma(WarpOp op, float* d, const uint32_t* a, const uint32_t* b, Site site) {
  self()->matrix = {d, a, b, nullptr, 0, false};
  warp_collective(op, kAllLanes, 0, 0, 32, site);
}

void warp_load_matrix(uint32_t* out, int count, bool transposed, const uint32_t* row, Site site) {
  self()->matrix = {nullptr, row, nullptr, out, count, transposed};
  warp_collective(WarpOp::kLoadMatrix, kAllLanes, 0, 0, 32, site);
}

}  // namespace emulation
