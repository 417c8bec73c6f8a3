// What every stage of the resident kernel shares: its arguments, its view of memory, and the
// register-tiled products of a tile of rows with a packed map.
//
// A block has 256 threads. Over a plane of 16 M rows its lanes form patches of M rows (16 apart)
// by 1 or 4 columns: a warp covers 4 rows x 8 columns of patches, so that a quad of eight packed
// rows is read without bank conflict and quads of activations are broadcasts. All accumulation is
// fp32, along k in order.
#pragma once
#include "cuda/prims/copy.cuh"
#include "cuda/prims/grid_sync.cuh"
#include "cuda/prims/reduce.cuh"
#include "cuda/resident/config.h"
#include "shared/heads.h"

#if defined(__CUDACC__)
#define TRPO_NOINLINE __noinline__
#else
#define TRPO_NOINLINE __attribute__((noinline))
#endif

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
};

namespace {

// Rows [begin, begin + rows of a tile) of the batch, or of the rows the products see.
struct RowSet {
  int64_t count;
  const int64_t* index;  // null: every row of the batch
  bool kept;             // its tiles are resident or cached
};

// A block's view of memory, the same in every thread.
struct Block {
  float* weights;          // packed theta
  float* v;                // packed v: of a product, CG's p, or a candidate's theta
  float* residual;         // packed r
  float* work;             // planes of tangents and deltas
  float* tiles;            // resident tiles, then the work tile
  float* reduce;           // [kReduceFloats]
  uint32_t* weight_words;  // split precision only: packed theta and p in halves,
  uint32_t* v_words;       // and the peaks, see split.cuh
  uint32_t* peaks;         // [kPeakSets, kMaxMaps, kWarps]
  float* partials;         // [grid, packed] in global memory
  float* reduced;          // packed A p; three of them for atomics
  float* gradient;         // packed g
  float* solution;         // packed x
  double* published;       // [kScalarRegions, grid, kScalars]
  int index, grid;         // of this block
};

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
// v are in shared memory as words, two halves to a word; the floats they come from lie in
// global memory, as in a streamed kernel.
template <class HalfType>
struct SplitVariation {
  using Half = HalfType;
  static constexpr bool kSplit = true, kStreamed = true;
  static constexpr int kSlots = kSplitSlots;
};

template <class V>
__device__ __forceinline__ Block make_block(const KernelArgs& a, unsigned char* shared) {
  const Layout& l = a.layout;
  Carve carve(shared);
  Block b;
  b.index = blockIdx.x;
  b.grid = gridDim.x;
  b.reduce = carve.take<float>(kReduceFloats);
  b.work = carve.take<float>(l.work);
  b.tiles = carve.take<float>((a.plan.resident_tiles + a.plan.work_tile) * l.tile);
  if constexpr (V::kSplit) {
    b.weight_words = carve.take<uint32_t>(l.packed);
    b.v_words = carve.take<uint32_t>(l.packed);
    b.peaks = carve.take<uint32_t>(kPeaks);
  }
  const Scratch& s = a.plan.scratch;
  const auto at = [&](int64_t offset) { return reinterpret_cast<float*>(a.scratch + offset); };
  const int64_t own = int64_t{b.index} * l.packed;
  if constexpr (V::kStreamed) {
    b.weights = at(s.weights);
    b.v = at(s.v) + own;
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
    for (int i = 0; i < 2; ++i) carve.take<uint32_t>(l.packed);
    carve.take<uint32_t>(kPeaks);
  }
  for (int i = 0; i < p.packed_on_chip; ++i) carve.take<float>(l.packed);
  return carve.bytes;
}

// The same pointer, known to lie in shared memory: the compiler loses track of that on the way
// through structs and lambdas, and a load that does not know its memory is slower.
template <class T>
__device__ __forceinline__ T* on_chip(T* pointer) {
#if defined(__CUDACC__)
  size_t address;
  asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(pointer));
  return static_cast<T*>(__cvta_shared_to_generic(address));
#else
  return pointer;
#endif
}

// Packed weights or a packed v: on chip unless this variation streams them.
template <class V, class T>
__device__ __forceinline__ T* packed_at(T* pointer) {
  if constexpr (V::kStreamed) return pointer;
  return on_chip(pointer);
}

__device__ __forceinline__ void fused(float& acc, float4 a, float4 b) {
  acc = fmaf(a.x, b.x, acc);
  acc = fmaf(a.y, b.y, acc);
  acc = fmaf(a.z, b.z, acc);
  acc = fmaf(a.w, b.w, acc);
}

// kM x kC outputs of one thread: rows row + 16 i, columns column + step j.
template <int kM, int kC>
struct Patch {
  int row, column, step, width;
  float value[kM][kC];

  template <class Store>  // store(row, column, value)
  __device__ __forceinline__ void each(Store store) const {
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kC; ++j)
        if (column + j * step < width) store(row + kRowGroups * i, column + j * step, value[i][j]);
  }
};

// One product of a plane [rows, k] with a packed map [outputs, k].
struct Product {
  const float* plane;
  const float* map;
  int stride_plane, stride_map, quads;
};

// patch += rows of the plane times rows of the map.
template <class V, int kM, int kC>
__device__ __forceinline__ void accumulate(Patch<kM, kC>& patch, const Product& p) {
  const float* rows = on_chip(p.plane + patch.row * p.stride_plane);
  const int row_step = kRowGroups * p.stride_plane;
  const float* maps[kC];
#pragma unroll
  for (int j = 0; j < kC; ++j)  // columns past the last compute what nobody stores
    maps[j] =
        packed_at<V>(p.map + min(patch.column + j * patch.step, patch.width - 1) * p.stride_map);
#pragma unroll 2
  for (int q = 0; q < 4 * p.quads; q += 4) {
    float4 x[kM], w[kC];
#pragma unroll
    for (int i = 0; i < kM; ++i) x[i] = load4(rows + i * row_step + q);
#pragma unroll
    for (int j = 0; j < kC; ++j) w[j] = load4(maps[j] + q);
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kC; ++j) fused(patch.value[i][j], x[i], w[j]);
  }
}

// The first row and column of a thread's patches. Of a warp's 4 rows by 8 columns, lanes n and n ^ 1
// share a column, n and n ^ 2 a row: shared memory serves 16-byte loads twice as fast when all such
// pairs read the same address.
struct PatchPlace {
  int row, column;
};
__device__ __forceinline__ PatchPlace patch_place() {
  const int lane = lane_index(), warp = warp_index();
  const int row = (lane & 1) | (lane >> 1 & 2), column = (lane >> 1 & 1) | (lane >> 2 & 6);
  return {(warp & 3) * 4 + row, (warp >> 2) * 8 + column};
}

// Calls finish(patch) for every patch of a plane [16 kM, width]; fill(patch) computes its values.
// A narrow plane takes one column per thread, so that more threads share it.
template <int kM, class Fill, class Finish>
__device__ __forceinline__ void block_patches(int width, Fill fill, Finish finish) {
  constexpr int kColumns = kThreads / kRowGroups;
  const auto [row, first] = patch_place();
  if (width <= kColumns) {
    if (first >= width) return;
    Patch<kM, 1> patch = {row, first, 1, width, {}};
    fill(patch);
    finish(patch);
    return;
  }
  const int groups = ceil_div(width, 4);
  for (int column = first; column < groups; column += kColumns) {
    Patch<kM, 4> patch = {row, column, groups, width, {}};
    fill(patch);
    finish(patch);
  }
}

// Threads that share a piece of work: those of a block, or of the grid.
struct Party {
  int thread, threads;
};
__device__ __forceinline__ Party block_party() { return {static_cast<int>(threadIdx.x), kThreads}; }
__device__ __forceinline__ Party grid_party(const Block& b) {
  return {b.index * kThreads + static_cast<int>(threadIdx.x), b.grid * kThreads};
}

// packed <- value(flat index) for every map; padding becomes zero. kBatch values at a time are under
// way together, and no number of them takes a division. No barrier.
template <int kBatch, class Value>
__device__ __forceinline__ void pack_maps(const Layout& l, float* packed, Party party,
                                          Value value) {
  for (int i = 0; i < l.maps; ++i) {
    const MapLayout& m = l.map[i];
    const int size = m.out * m.stride_in, bias = m.flat + m.out * m.in;
    int o = party.thread / m.stride_in, k = party.thread % m.stride_in;
    const int rows = party.threads / m.stride_in, columns = party.threads % m.stride_in;
#pragma unroll 1
    for (int base = party.thread; base < size; base += kBatch * party.threads) {
      float x[kBatch];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const bool inside = base + n * party.threads < size && k <= m.in;
        const float found = value(!inside ? m.flat : k < m.in ? m.flat + o * m.in + k : bias + o);
        x[n] = inside ? found : 0.0f;
        o += rows;
        k += columns;
        if (k >= m.stride_in) ++o, k -= m.stride_in;
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int at = base + n * party.threads;
        if (at < size) packed[m.weights + at] = x[n];
      }
    }
  }
}

// packed <- flat [P]; padding becomes zero. No barrier.
__device__ __forceinline__ void pack(const Layout& l, const float* flat, float* packed,
                                     Party party) {
  pack_maps<8>(l, packed, party, [&](int i) { return flat[i]; });
  if (l.log_std < 0) return;
  for (int i = party.thread; i < padded(l.actions); i += party.threads)
    packed[l.log_std + i] = i < l.actions ? flat[l.flat_log_std + i] : 0.0f;
}

}  // namespace
}  // namespace trpo_fast::cuda
