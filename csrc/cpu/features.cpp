// Detects the instruction set through the compiler's CPU model; asks Linux for the AMX tile state.
#include "cpu/features.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace trpo_fast {
namespace {

constexpr const char* kIsaNames[kIsaCount] = {"base", "avx2", "avx512", "amx"};

#if defined(__x86_64__)
constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;  // XFEATURE_XTILEDATA: 8 KiB a thread, so Linux wants to be asked

Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("x86-64-v3")) return Isa::kBase;
  if (!__builtin_cpu_supports("x86-64-v4")) return Isa::kAvx2;
  const bool amx = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                   __builtin_cpu_supports("avx512bf16");
  if (!amx || syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return Isa::kAvx512;
  return Isa::kAmx;
}
#else
Isa detect() { return Isa::kBase; }
#endif

}  // namespace

const char* isa_name(Isa isa) { return kIsaNames[static_cast<int>(isa)]; }

Isa detected_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa selected_isa() {
  const char* asked = std::getenv("TRPO_FAST_ISA");
  if (asked == nullptr || *asked == '\0') return detected_isa();
  for (int level = 0; level <= static_cast<int>(detected_isa()); ++level) {
    if (std::strcmp(asked, kIsaNames[level]) == 0) return static_cast<Isa>(level);
  }
  throw std::invalid_argument(
      std::string("TRPO_FAST_ISA: expected base, avx2, avx512 or amx, and at most ") +
      isa_name(detected_isa()) + " on this CPU, got '" + asked + "'");
}

}  // namespace trpo_fast
