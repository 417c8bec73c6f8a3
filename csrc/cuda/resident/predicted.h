// The (rows, slots) of register tiles that the kernels are compiled for, and how long each should take
// on an H200: by this the plan chooses one, and `trpo-fast doctor` says what to expect. Predicted, not
// measured: tests/sass/fit.py fits the numbers to the model of tests/sass, and `make check-cuda` holds
// them to it. Host-only, no CUDA.
#pragma once

namespace trpo_fast::cuda {

// Microseconds that grow with the floats of a packed vector.
struct Cost {
  float us, ns;  // at none; for each

  constexpr float of(int packed) const { return us + 1e-3f * ns * static_cast<float>(packed); }
};

struct Variant {
  int row_step, slots;
  Cost step;  // of a product: grid barriers, reduction, CG's vectors
  Cost tile;  // of every tile of 16 row_step rows that a block owns
};

constexpr Variant kResidentVariants[] = {
    {1, 1, {8.2f, 0.08f}, {4.5f, 0.57f}},
    {4, 1, {8.2f, 0.08f}, {7.8f, 1.51f}},
    {1, 3, {6.0f, 0.52f}, {2.9f, 0.88f}},
    {2, 3, {6.0f, 0.52f}, {4.0f, 1.20f}},
};
constexpr Variant kStreamedVariants[] = {
    {1, 3, {6.0f, 0.52f}, {2.9f, 0.88f}},
};
// A kernel for each number of slots serves every number of rows; few rows leave warps without work.
// With one slot, which a net of 64-64 takes, a quarter as much is spilled.
constexpr Variant kSplitVariants[] = {
    {1, 1, {14.0f, 0.13f}, {9.0f, 0.2f}},  {2, 1, {14.0f, 0.13f}, {12.0f, 0.3f}},
    {4, 1, {14.0f, 0.13f}, {14.0f, 0.5f}}, {1, 3, {14.0f, 0.13f}, {9.0f, 0.2f}},
    {2, 3, {14.0f, 0.13f}, {12.0f, 0.3f}}, {4, 3, {14.0f, 0.13f}, {14.0f, 0.5f}},
};
constexpr Cost kStart = {17.0f, 2.0f};  // of a solve, before its first product

// Of a tile's time, what its planes add where they come from device memory, or are computed again.
constexpr float kCachedShare = 0.15f, kComputedShare = 0.3f;

}  // namespace trpo_fast::cuda
