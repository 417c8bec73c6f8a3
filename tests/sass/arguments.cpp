// What a launch of the resident kernel's solve is given on an H200, for the interpreter of SASS: the plan, the
// bytes of KernelArgs with addresses in one made-up arena, and where its arrays lie there, as JSON.
//
//   arguments fp32|fp16x3 ROWS HEAD ITERATIONS PATH ROW_STEP SLOTS WIDTH WIDTH...
//
// PATH 0 is what the plan chooses; otherwise the variant is ROW_STEP, SLOTS.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/resident/block.cuh"
#include "shared/heads.h"

using namespace trpo_fast;
using namespace trpo_fast::cuda;

namespace {

constexpr uintptr_t kArena = uintptr_t{1} << 32;
uintptr_t used = kArena;
const char* comma = "";

template <class T>
T* array(const char* name, int64_t count) {
  const uintptr_t at = used;
  used = (at + count * sizeof(T) + 255) / 256 * 256;
  printf("%s\"%s\": [%lu, %ld]", comma, name, (unsigned long)(at - kArena),
         long(count * sizeof(T)));
  comma = ", ";
  return reinterpret_cast<T*>(at);
}

}  // namespace

int main(int count, char** words) {
  const bool split = !strcmp(words[1], "fp16x3");
  NetShape net{};
  net.maps = count - 9;
  for (int i = 0; i <= net.maps; ++i) net.width[i] = atoi(words[8 + i]);
  const bool gaussian = !strcmp(words[3], "gaussian");
  net.head = gaussian ? Head::kGaussian : Head::kCategorical;
  net.factors = gaussian ? 0 : 1;
  net.nvec[0] = gaussian ? 0 : net.width[net.maps];
  const int64_t rows = atol(words[2]);
  const Precision precision = split ? Precision::kFp16x3 : Precision::kFp32;
  const PlanRequest request = {net, rows, rows, false, 0, 0, 0, precision};
  const DeviceLimits h200 = {132, 227 * 1024, 90};
  KernelArgs a{};
  a.program = kProgramSolve;
  a.net = net;
  a.plan = make_plan(request, h200);
  if (const auto path = static_cast<Path>(atoi(words[5])); path != Path::kNone) {
    a.plan = fill_plan(request, h200, path, Variant{atoi(words[6]), atoi(words[7]), {}, {}});
    const Layout layout = make_layout(net, kRowGroups * a.plan.row_step, split);
    a.plan.scratch = make_scratch(request, a.plan, layout);
  }
  a.layout = make_layout(net, kRowGroups * a.plan.row_step, split);
  a.rows.count = a.fvp_count = rows;
  a.damping = 0.1f;
  a.kl_scale = 1;
  a.cg = {atoi(words[4]), 0, 0, 0};
  a.columns = 1;
  printf("{\"arrays\": {");
  a.rows.obs = array<float>("obs", rows * net.width[0]);
  a.theta = array<float>("theta", a.layout.flat);
  a.v = array<float>("v", a.layout.flat);
  a.out = array<float>("out", a.layout.flat);
  a.stats = array<double>("stats", 64);
  a.scratch = array<unsigned char>("scratch", a.plan.scratch.total);
  printf("}, \"arena\": %lu, \"bytes\": %lu", (unsigned long)kArena,
         (unsigned long)(used - kArena));
  printf(", \"grid\": %d, \"threads\": %d, \"row_step\": %d, \"slots\": %d, \"path\": %d",
         a.plan.grid, kThreads, a.plan.row_step, a.plan.slots, int(a.plan.path));
  printf(", \"own\": %ld, \"packed\": %d, \"scalars\": %ld",
         long((a.plan.fvp_tiles + a.plan.grid - 1) / a.plan.grid), a.layout.packed,
         long(a.plan.scratch.scalars));
  const Predicted us = predicted(net, a.plan);
  printf(", \"start_us\": %g, \"product_us\": %g", us.start_us, us.product_us);
  printf(", \"arguments\": \"");
  const auto* bytes = reinterpret_cast<const unsigned char*>(&a);
  for (size_t i = 0; i < sizeof a; ++i) printf("%02x", bytes[i]);
  printf("\"}\n");
}
