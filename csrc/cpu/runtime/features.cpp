// Detects the instruction set; asks Linux for the AMX tile state.
#include "cpu/runtime/features.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace trpo_fast::cpu {
namespace {

constexpr const char* kIsaNames[kIsaCount] = {"base", "avx2", "avx512", "amx"};

#if defined(__x86_64__)
constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;  // XFEATURE_XTILEDATA: 8 KiB a thread, so Linux wants to be asked

// Names that every compiler knows; together they make x86-64-v3 and x86-64-v4, and include the
// operating system's consent to the wider registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  const bool tile = edx & (1u << 24);
  const bool tile_bf16 = edx & (1u << 22);
  if (eax < 1 || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return false;
  const bool vector_bf16 = eax & (1u << 5);
  return tile && tile_bf16 && vector_bf16 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Isa detect() {
  __builtin_cpu_init();
  if (!has_avx2()) return Isa::kBase;
  if (!has_avx512()) return Isa::kAvx2;
  return has_amx() ? Isa::kAmx : Isa::kAvx512;
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

}  // namespace trpo_fast::cpu
