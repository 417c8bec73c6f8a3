// Numbers of K-FAC's factors that both cores and trpo_fast/core/preconditioner.py share: the hash that
// picks rows and signs, and the share of the damping that the factors' inverses have.
#pragma once
#include "shared/head_row.h"

namespace trpo_fast {
namespace {

constexpr double kDampingShare = 0.25;    // of the damping that the inverses have
constexpr double kDampingFloor = 1e-4;    // of a damping, as a share of the pair's mean eigenvalue
constexpr double kBalanceLimit = 1e4;     // of pi, and 1 / pi
constexpr float kLogStdCurvature = 2.0f;  // log_std's block of the Fisher matrix, times kl_scale
constexpr uint32_t kPickSeed = 0x9E3779B9u;  // begins the hash that picks rows; signs begin with 0

TRPO_HOST_DEVICE uint32_t mixed(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// The word of signs of row n of the batch that holds those of outputs 32 word .. 32 word + 31.
TRPO_HOST_DEVICE uint32_t sign_word(int64_t n, int word) {
  return mixed(mixed(static_cast<uint32_t>(n)) + static_cast<uint32_t>(word));
}

// Plus or minus one for output d of row n: minus where the bit is set.
TRPO_HOST_DEVICE float sign_of(int64_t n, int d) {
  return (sign_word(n, d / 32) >> (d % 32)) & 1u ? -1.0f : 1.0f;
}

// How many of `rows` rows go into the factors.
TRPO_HOST_DEVICE int64_t picked_count(int64_t rows, int stride) {
  return (rows + stride - 1) / stride;
}

// The i-th of them: one of every `stride` in a row, at a hashed place.
TRPO_HOST_DEVICE int64_t picked_row(int64_t rows, int stride, int64_t i) {
  const int64_t begin = i * stride, left = rows - begin < stride ? rows - begin : stride;
  return begin + mixed(static_cast<uint32_t>(i) + kPickSeed) % left;
}

}  // namespace
}  // namespace trpo_fast
