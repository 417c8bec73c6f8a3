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
    {1, 1, {5.94f, 0.20f}, {3.87f, 0.37f}},
    {4, 1, {6.20f, 0.34f}, {5.54f, 1.40f}},
    {1, 3, {7.85f, 0.18f}, {3.04f, 0.72f}},
    {2, 3, {5.40f, 0.45f}, {1.97f, 1.38f}},
};
constexpr Variant kStreamedVariants[] = {
    {1, 3, {11.63f, 0.36f}, {6.05f, 0.48f}},
};
// A kernel for each number of slots serves every number of rows; few rows leave warps without work.
// With one slot, which a net of 64-64 takes, a quarter as much is spilled.
constexpr Variant kSplitVariants[] = {
    {1, 1, {8.98f, 0.25f}, {4.98f, 0.35f}},  {2, 1, {8.97f, 0.26f}, {5.38f, 0.68f}},
    {4, 1, {9.05f, 0.21f}, {7.72f, 0.64f}},  {1, 3, {15.02f, 0.25f}, {2.22f, 0.85f}},
    {2, 3, {11.05f, 0.70f}, {5.46f, 0.80f}}, {4, 3, {10.01f, 0.81f}, {0.00f, 2.66f}},
};
constexpr Cost kStart = {15.0f, 0.8f};  // of a solve, before its first product

// Of a tile's time, what its planes add where they come from device memory, or are computed again.
constexpr float kCachedShare = 0.15f, kComputedShare = 0.3f;

}  // namespace trpo_fast::cuda
