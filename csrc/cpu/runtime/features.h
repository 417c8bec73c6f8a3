// Which instruction set the kernels may use on this CPU: detected once, lowered by TRPO_FAST_ISA.
#pragma once

namespace trpo_fast::cpu {

// Each level includes the ones before it. kAmx is AVX-512 plus bf16 tiles, with the kernel's
// permission to use them.
enum class Isa : int { kBase = 0, kAvx2, kAvx512, kAmx };
constexpr int kIsaCount = 4;

const char* isa_name(Isa isa);

// The highest level that CPU and operating system offer.
Isa detected_isa();

// The level in use: TRPO_FAST_ISA if set, else detected_isa(). Reads the environment at every call;
// throws std::invalid_argument when the variable names no level or one above detected_isa().
Isa selected_isa();

}  // namespace trpo_fast::cpu
