// What the sanitizers run: its parts, and random numbers and small nets of every head for them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/runtime/features.h"
#include "shared/params.h"

namespace trpo_fast::cpu {

// False, after printing which, when a result depended on the number of threads.
bool check_core(Isa isa, int bf16_planes);
bool check_learner(Isa isa);

struct Random {
  uint32_t state = 1;
  float next() {  // in [-1, 1)
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / (1 << 23) - 1.0f;
  }
  std::vector<float> floats(int64_t n) {
    std::vector<float> made(static_cast<size_t>(n));
    for (float& x : made) x = next();
    return made;
  }
};

inline NetShape net_of(std::vector<int> widths, Activation activation, Head head) {
  NetShape net{};
  net.maps = static_cast<int>(widths.size()) - 1;
  std::copy(widths.begin(), widths.end(), net.width);
  net.activation = activation;
  net.head = head;
  if (head == Head::kCategorical) net.factors = 1, net.nvec[0] = widths.back();
  if (head == Head::kMultiCategorical) {
    net.factors = 2, net.nvec[0] = 1, net.nvec[1] = widths.back() - 1;
  }
  return net;
}

inline int64_t parameters_of(const NetShape& net) {
  int64_t parameters = net.head == Head::kGaussian ? net.width[net.maps] : 0;
  for (int l = 0; l < net.maps; ++l) parameters += (net.width[l] + 1) * net.width[l + 1];
  return parameters;
}

}  // namespace trpo_fast::cpu
