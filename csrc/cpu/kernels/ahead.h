// What the next block of rows will read, asked for some lines at a time while this one is at work:
// rows come from memory in pieces too short for the processor to see them coming.
#pragma once
#include <cstdint>

#include "shared/params.h"

namespace trpo_fast::cpu {

struct Ahead {
  struct Range {
    const char *begin, *end;
  };
  static constexpr int kMostRanges = 2 * kMaxMaps;
  Range range[kMostRanges];
  int ranges, current;

  void add(const float* begin, int64_t floats) {
    range[ranges++] = {reinterpret_cast<const char*>(begin),
                       reinterpret_cast<const char*>(begin + floats)};
  }
};

namespace {

// Asks for the next 16 lines.
inline __attribute__((always_inline)) void look_ahead(Ahead& a) {
  if (a.current == a.ranges) return;
  Ahead::Range& range = a.range[a.current];
  for (int i = 0; i < 16; ++i) __builtin_prefetch(range.begin + 64 * i, 0, 2);
  range.begin += 1024;
  a.current += range.begin >= range.end;
}

}  // namespace
}  // namespace trpo_fast::cpu
