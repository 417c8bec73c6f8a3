// Where everything lies inside the kernels: packed vectors, planes of a tile, planes of tangents.
// Host code (config.h) fills a Layout from shapes; kernels only read it. No CUDA in here.
//
// A row of width w is stored as w values, then the constant 1 that the bias multiplies, then
// zeros, in plane_stride(w) floats. A map is packed the same way, one row [W_o, b_o, 0...] per
// output, so a layer is one product of rows with rows and the bias needs no code of its own. The
// packed form of a vector [P] holds its maps one after the other, then log_std; padding is zero
// in every packed vector and stays zero, because the padding of every plane is zero.
//
// A stride is an odd number of quads (16 bytes): the same quad of eight consecutive rows covers
// all 32 banks once, whichever quad it is.
//
// In split precision planes and maps on chip are halves instead, for tensor cores: the high ones of all
// rows, then the low ones, in chunks of eight (16 bytes). A row has an even number of chunks, which
// trade places by the row's number, so that a chunk of eight rows covers all banks. The constant is
// there only where it takes no step of 16 of its own; elsewhere biases are floats beside the map. The
// last map's outputs, and what follows from them row by row, are floats at an odd stride.
#pragma once
#include <climits>
#include <cstdint>

#include "shared/heads.h"

#if defined(__CUDACC__)
#define TRPO_BOTH __host__ __device__ inline
#else
#define TRPO_BOTH inline
#endif

namespace trpo_fast::cuda {

constexpr int kThreads = 256;  // of every block of the resident kernel
constexpr int kWarps = kThreads / 32;
constexpr int kTileOutputs = 8;  // a thread's register tile of a weight gradient:
constexpr int kTileInputs = 4;   // 8 outputs x one quad of inputs
constexpr int kRowGroups = 16;   // threads along the rows of a tile
constexpr int kBlockSide = 32;   // a warp's share of a weight gradient in split precision
constexpr int kBandRows = 16;    // rows of a tile that share a power of two in split precision
constexpr int kBands = 4;        // of a tile, at most
constexpr int kMarks = kWarps + kBands;  // what is known of the sizes in a plane of halves
constexpr int kPeakSets = 3;             // of the work planes, the weights, p
constexpr int kMapMarks = kPeakSets * kMarks;

TRPO_BOTH int ceil_div(int a, int b) { return (a + b - 1) / b; }
TRPO_BOTH int row_quads(int width) { return (width + 4) / 4; }  // of a row with its constant 1
TRPO_BOTH int plane_stride(int width) { return 4 * (row_quads(width) | 1); }
TRPO_BOTH int padded(int count) { return (count + 3) & ~3; }
TRPO_BOTH int half_chunks(int width) { return 2 * ceil_div(width, 16); }  // of a row in halves
TRPO_BOTH int half_words(int rows, int width) { return 8 * rows * half_chunks(width); }
TRPO_BOTH bool bias_apart(int width) { return width % 16 == 0; }  // no room for the constant

struct MapLayout {
  int in, out;
  int stride_in;       // of a row of inputs, and of a packed row of weights
  int stride_out;      // of a row of outputs
  int stride_tangent;  // of a row of their tangents; the last map's also hold log_std's
  int weights;         // packed offset of the map
  int flat;            // offset of W in the flat vector; b follows it
  int input;           // offset in a tile: plane of the map's inputs
  int output;          // offset in a tile: plane of its outputs
  int slope;           // offset in a tile: plane of act' of its outputs, -1 if the value gives it
  int tangent;         // offset in the work planes: tangents, later deltas, of its outputs
  int deltas;          // the same of the deltas as halves, split precision only
  unsigned row_magic;  // n row_magic >> 31 is the row of quad n of the map, packed
  int halves;          // offset of the map in a packed vector of halves: [outputs up to 8] rows
  int bias;            // offset there of biases that are apart, zeros where they are not
  int first_tile;      // register tiles of the weight gradient (blocks of 32 x 32 in split
  int tile_columns;    // precision): number of the first, and how many lie side by side
  unsigned two_rows_inverse;  // 2^32 / (2 tile_columns), rounded up: see two_rows_of
};

struct Layout {
  int maps;
  Activation activation;
  Head head;
  int outputs;     // Z
  int parameters;  // D, width of the last plane of tangents
  int actions;     // A
  int packed;      // floats of a packed vector
  int halves;      // words of one in halves
  int flat;        // P
  int log_std;     // packed offset of log_std, -1 if the head has none
  int flat_log_std;
  int rows;         // of a tile, a power of two
  int row_shift;    // log2 of it
  int row_weights;  // offset in a tile: one weight per row
  int peaks;        // offset in a tile: [maps, kMarks], split precision only, otherwise -1
  int metric;       // offset in a tile: plane of the metric's factors, fp32 only, otherwise -1
  bool diagonal;    // the factors are the metric's diagonal, times the row's weight in a tile
  int tile;         // floats of a tile
  int work;         // floats of the work planes
  bool
      bias_apart;  // no register tile covers the last map's bias, which has no quad of inputs to share
  int tiles;       // register tiles of all weight gradients together
  MapLayout map[kMaxMaps];
};

// local / (2 tile_columns) of a register tile: exact below 2^32 / (2 tile_columns).
TRPO_BOTH int two_rows_of(const MapLayout& m, int local) {
  return static_cast<int>((static_cast<uint64_t>(local) * m.two_rows_inverse) >> 32);
}

TRPO_BOTH bool keeps_slope(Activation a) {
  return a == Activation::kSilu || a == Activation::kGelu;
}

// Floats of a plane of a map's inputs, hidden outputs or their tangents.
inline int plane_floats(int rows, int width, bool split) {
  return split ? half_words(rows, width) : rows * plane_stride(width);
}

// A map in halves, and its biases, for as many columns as a warp's pieces look at.
inline void lay_out_halves(Layout& l, MapLayout& m) {
  m.halves = l.halves;
  m.bias = m.halves + half_words((m.out + 7) & ~7, m.in);
  const int piece = m.out > 16 ? 32 : 16;
  l.halves = m.bias + ceil_div(m.out, piece) * piece;
}

inline Layout make_layout(const NetShape& net, int rows, bool split = false) {
  Layout l{};
  l.maps = net.maps;
  l.activation = net.activation;
  l.head = net.head;
  l.outputs = net.width[net.maps];
  l.parameters = dist_params(net);
  l.actions = action_columns(net);
  l.rows = rows;
  while (1 << l.row_shift < rows) ++l.row_shift;
  for (MapLayout& m : l.map) m.first_tile = INT_MAX;  // of maps that the net does not have
  for (int i = 0; i < l.maps; ++i) {
    MapLayout& m = l.map[i];
    const bool last = i == l.maps - 1, floats = last && split;
    m.in = net.width[i];
    m.out = net.width[i + 1];
    m.stride_in = plane_stride(m.in);
    m.stride_out = floats ? m.out | 1 : plane_stride(m.out);
    m.stride_tangent = floats ? l.parameters | 1 : last ? plane_stride(l.parameters) : m.stride_out;
    m.row_magic = 0x80000000u / (m.stride_in / 4) + 1;
    m.weights = l.packed;
    m.flat = l.flat;
    l.packed += m.out * m.stride_in;
    l.flat += m.out * (m.in + 1);
    if (i == 0) l.tile = plane_floats(rows, m.in, split);
    m.input = i == 0 ? 0 : l.map[i - 1].output;
    m.output = l.tile;
    l.tile += last ? rows * m.stride_out : plane_floats(rows, m.out, split);
    m.slope = -1;
    if (!last && keeps_slope(net.activation)) {
      m.slope = l.tile;
      l.tile += rows * m.stride_out;
    }
    m.tangent = m.deltas = l.work;
    l.work += last ? rows * m.stride_tangent : plane_floats(rows, m.out, split);
    if (floats) {
      m.deltas = l.work;
      l.work += half_words(rows, m.out);
    }
    if (split) lay_out_halves(l, m);
    m.first_tile = l.tiles;
    l.bias_apart = !split && last && m.in % 4 == 0;
    // Padding too: every quad of a partial vector is written.
    m.tile_columns = split ? ceil_div(m.in, kBlockSide) : l.bias_apart ? m.in / 4 : m.stride_in / 4;
    m.two_rows_inverse = 0xffffffffu / (2 * m.tile_columns) + 1;
    l.tiles += ceil_div(m.out, split ? kBlockSide : kTileOutputs) * m.tile_columns;
  }
  if (!split) l.work += 4;  // a register tile of less than 8 outputs reads past the last row
  l.metric = -1;
  l.diagonal = net.head != Head::kNone && metric_is_diagonal(net);
  if (!split && net.head != Head::kNone) {
    l.metric = l.tile;
    l.tile += rows * l.map[l.maps - 1].stride_out;
  }
  l.row_weights = l.tile;
  l.tile += padded(rows);
  l.peaks = split ? l.tile : -1;
  if (split) l.tile += l.maps * kMarks;
  l.log_std = l.flat_log_std = -1;
  if (net.head == Head::kGaussian) {
    l.log_std = l.packed;
    l.flat_log_std = l.flat;
    l.packed += padded(l.actions);
    l.flat += l.actions;
  }
  return l;
}

// The flat index of a packed one, -1 for padding.
TRPO_BOTH int flat_index(const Layout& l, int packed) {
  if (l.log_std >= 0 && packed >= l.log_std) {
    const int a = packed - l.log_std;
    return a < l.actions ? l.flat_log_std + a : -1;
  }
  int i = l.maps - 1;
  while (packed < l.map[i].weights) --i;
  const MapLayout& m = l.map[i];
  const int o = (packed - m.weights) / m.stride_in, k = (packed - m.weights) % m.stride_in;
  if (k < m.in) return m.flat + o * m.in + k;
  return k == m.in ? m.flat + m.out * m.in + o : -1;
}

}  // namespace trpo_fast::cuda
