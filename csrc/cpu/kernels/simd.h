// One vector of kVector floats.
#pragma once
#include <cstdint>

#include "cpu/kernels/isa.h"

namespace trpo_fast::cpu {
namespace {

typedef float V __attribute__((vector_size(kVector * 4)));

#define TRPO_INLINE inline __attribute__((always_inline))

TRPO_INLINE V load(const float* p) { return *reinterpret_cast<const V*>(p); }
TRPO_INLINE void store(float* p, V x) { *reinterpret_cast<V*>(p) = x; }
TRPO_INLINE void zero(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kVector) store(x + i, V{});
}

// CountLanes<N>::type is Lanes<0, ..., N - 1>.
template <int... I>
struct Lanes {};
template <int N, int... I>
struct CountLanes : CountLanes<N - 1, N - 1, I...> {};
template <int... I>
struct CountLanes<0, I...> {
  using type = Lanes<I...>;
};

}  // namespace
}  // namespace trpo_fast::cpu
