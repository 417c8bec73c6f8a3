// What a launch of the resident kernel is given, and a block's view of shared and device memory.
#pragma once
#include "cuda/prims/dev.h"
#include "cuda/resident/config.h"
#include "cuda/resident/factor_layout.h"
#include "shared/params.h"

namespace trpo_fast::cuda {

enum Program : int {
  kProgramFvp,
  kProgramGradient,
  kProgramSolve,
  kProgramUpdate,
  kProgramEvaluate
};

// Passed by value; read from the constant bank.
struct KernelArgs {
  Program program;
  NetShape net;
  Layout layout;
  Plan plan;
  Rows rows;
  const int64_t* fvp_rows;  // [fvp_count] or null
  int64_t fvp_count;
  float damping, kl_scale;
  CgParams cg;
  SearchParams search;
  float learning_rate;  // of x itself; not positive: the KL-normalised step
  bool atomics;         // fast mode: one barrier per product, sums in any order
  int columns;          // right-hand sides K
  const float* theta;   // [P]
  float* theta_out;     // [P], written only if the update is accepted
  const float* v;       // [K, P]; g of a solve; [P] parameters of an evaluation
  float* out;           // [K, P] F v or x; [P] gradient
  double* stats;        // what the program reports
  unsigned char* scratch;
  FactorLayout factors;  // of the preconditioner, no factors without
};

namespace {

// Rows [begin, begin + rows of a tile) of the batch, or of the rows the products see.
struct RowSet {
  int64_t count;
  const int64_t* index;  // null: every row of the batch
  bool kept;             // its tiles are resident or cached
};

// A block's view of memory, the same in every thread. A function that is not inlined takes pointers of it,
// never a reference to it: that would keep it in memory, and no load behind the call would be known to
// be of shared or of global memory.
struct Block {
  float* weights;          // packed theta
  float* v;                // packed v: of a product, CG's p, or a candidate's theta
  float* residual;         // packed r
  float* work;             // planes of tangents and deltas
  float* tiles;            // resident tiles, then the work tile
  float* reduce;           // [kReduceFloats]
  uint32_t* weight_words;  // split precision only: packed theta and p in halves,
  uint32_t* v_words;       // and the peaks, see split.cuh
  uint32_t* peaks;         // [maps, kPeakSets, kMarks]
  float* partials;         // [grid, packed] in global memory
  float* reduced;          // packed A p; three of them for atomics
  float* gradient;         // packed g
  float* solution;         // packed x
  double* published;       // [kScalarRegions, grid, kScalars]
  int index, grid;         // of this block
  int slice;               // quads of a packed vector that each block reduces
};

// An even number, for whole sectors of 32 bytes.
__device__ __forceinline__ int slice_quads(const Layout& l, int grid) {
  return 2 * ceil_div(l.packed / 4, 2 * grid);
}

enum Region : int { kRegionSetup, kRegionDots, kRegionSearch };  // the last twice

enum PeakSet : int { kWorkPeaks, kWeightPeaks, kVPeaks };
static_assert(kVPeaks + 1 == kPeakSets);

// What one compiled kernel is fixed to in fp32, one for each of config.h's variants.
template <int kRowStep, int kSlotCount, bool kStreamedPath>
struct Variation {
  static constexpr bool kSplit = false;
  static constexpr int kM = kRowStep;               // rows of a patch
  static constexpr int kSlots = kSlotCount;         // register tiles of weight gradient per thread
  static constexpr bool kStreamed = kStreamedPath;  // packed vectors lie in global memory
};

// The same in split precision, one for each type of half (Fp16 or Bf16 of prims/mma.cuh). Weights and
// v are in shared memory as words, two halves to a word; the floats they come from lie in global
// memory, as in a streamed kernel, v's on chip where there is room.
template <class HalfType, int kSlotCount>
struct SplitVariation {
  using Half = HalfType;
  static constexpr bool kSplit = true, kStreamed = true;
  static constexpr int kSlots = kSlotCount;  // blocks of weight gradient per warp
};

template <class V>
__device__ __forceinline__ Block make_block(const KernelArgs& a, unsigned char* shared) {
  const Layout& l = a.layout;
  Carve carve(shared);
  Block b;
  b.index = blockIdx.x;
  b.grid = gridDim.x;
  b.slice = slice_quads(l, b.grid);
  b.reduce = carve.take<float>(kReduceFloats);
  b.work = carve.take<float>(l.work);
  b.tiles = carve.take<float>((a.plan.resident_tiles + a.plan.work_tile) * l.tile);
  if constexpr (V::kSplit) {
    b.weight_words = carve.take<uint32_t>(l.halves);
    b.v_words = carve.take<uint32_t>(l.halves);
    b.peaks = carve.take<uint32_t>(l.maps * kMapMarks);
  }
  const Scratch& s = a.plan.scratch;
  const auto at = [&](int64_t offset) { return reinterpret_cast<float*>(a.scratch + offset); };
  const int64_t own = int64_t{b.index} * l.packed;
  if constexpr (V::kStreamed) {
    b.weights = at(s.weights);
    b.v = V::kSplit && a.plan.direction_on_chip ? carve.take<float>(l.packed) : at(s.v) + own;
  } else {
    b.weights = carve.take<float>(l.packed);
    b.v = carve.take<float>(l.packed);
  }
  b.residual = a.plan.residual_on_chip ? carve.take<float>(l.packed) : at(s.residuals) + own;
  b.partials = at(s.partials);
  b.reduced = at(s.vectors);
  b.gradient = b.reduced + 3 * l.packed;
  b.solution = b.reduced + 4 * l.packed;
  b.published = reinterpret_cast<double*>(a.scratch + s.scalars);
  return b;
}

// The bytes make_block carves, red zones of the emulator included.
inline size_t block_bytes(const Layout& l, const Plan& p) {
  Carve carve;
  carve.take<float>(kReduceFloats);
  carve.take<float>(l.work);
  carve.take<float>((p.resident_tiles + p.work_tile) * l.tile);
  if (p.precision != Precision::kFp32) {
    for (int i = 0; i < 2; ++i) carve.take<uint32_t>(l.halves);
    carve.take<uint32_t>(l.maps * kMapMarks);
  }
  for (int i = 0; i < p.packed_on_chip; ++i) carve.take<float>(l.packed);
  return carve.bytes;
}

}  // namespace
}  // namespace trpo_fast::cuda
