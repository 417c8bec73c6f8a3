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
    {1, 1, {8.75f, 0.03f}, {4.05f, 0.66f}},
    {4, 1, {8.80f, 0.02f}, {6.99f, 1.57f}},
    {1, 3, {9.95f, 0.15f}, {7.93f, 0.60f}},
    {2, 3, {10.87f, 0.00f}, {6.62f, 1.48f}},
};
constexpr Variant kStreamedVariants[] = {
    {1, 3, {20.77f, 0.43f}, {9.65f, 0.63f}},
};
// A kernel for each number of slots serves every number of rows; few rows leave warps without work.
// With one slot, which a net of 64-64 takes, a quarter as much is spilled.
constexpr Variant kSplitVariants[] = {
    {1, 1, {12.91f, 0.39f}, {6.83f, 0.56f}}, {2, 1, {12.92f, 0.39f}, {6.72f, 1.09f}},
    {4, 1, {12.91f, 0.38f}, {9.27f, 1.20f}}, {1, 3, {13.46f, 0.62f}, {11.86f, 0.37f}},
    {2, 3, {17.93f, 0.11f}, {7.30f, 1.38f}}, {4, 3, {5.68f, 1.35f}, {22.04f, 0.86f}},
};
constexpr Cost kStart = {17.0f, 2.0f};  // of a solve, before its first product

// Of a tile's time, what its planes add where they come from device memory, or are computed again.
constexpr float kCachedShare = 0.15f, kComputedShare = 0.3f;

}  // namespace trpo_fast::cuda
