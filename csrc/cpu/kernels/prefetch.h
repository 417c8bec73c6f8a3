// What the next block of rows will read, prefetched some lines at a time while this one is computed:
// rows come from memory in pieces too short for the processor's own prefetching.
#pragma once
#include <cstdint>

#include "shared/params.h"

namespace trpo_fast::cpu {

struct Prefetch {
  struct Range {
    const char *begin, *end;
  };
  static constexpr int kMaxRanges = 2 * kMaxMaps;
  Range range[kMaxRanges];
  int ranges, current;

  void add(const float* begin, int64_t floats) {
    range[ranges++] = {reinterpret_cast<const char*>(begin),
                       reinterpret_cast<const char*>(begin + floats)};
  }
};

namespace {

// Prefetches the next 16 cache lines.
inline __attribute__((always_inline)) void prefetch_lines(Prefetch& a) {
  if (a.current == a.ranges) return;
  Prefetch::Range& range = a.range[a.current];
  for (int i = 0; i < 16; ++i) __builtin_prefetch(range.begin + 64 * i, 0, 2);
  range.begin += 1024;
  a.current += range.begin >= range.end;
}

}  // namespace
}  // namespace trpo_fast::cpu
