// Runs one part of the CPU core, "core" or "learner", under a sanitizer: every instruction set this CPU
// has. Prints "ok", or which result depended on the number of threads. Built by test_cpu_build.py.
#include "sanitized.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cpu/kernels/dispatch.h"

using namespace trpo_fast;
using namespace trpo_fast::cpu;

int main(int count, char** words) {
  const bool learner = count == 2 && !std::strcmp(words[1], "learner");
  const Isa best = detected_isa();
  bool good = true;
  for (int i = 0; i <= std::min(static_cast<int>(best), 2); ++i) {
    const Isa isa = static_cast<Isa>(i);
    good = (learner ? check_learner(isa) : check_core(isa, 0)) && good;
  }
  for (int planes = 2; planes <= 3 && best == Isa::kAmx && !learner; ++planes) {
    good = check_core(Isa::kAmx, planes) && good;
  }
  if (good) std::puts("ok");
  return good ? 0 : 1;
}
