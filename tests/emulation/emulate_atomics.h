// Atomics of CUDA for g++. They are real atomics, so that TSan understands them; plain CUDA atomics
// are relaxed and order memory only together with __threadfence.
#pragma once

namespace emulation {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T, class Update>
inline T atomic_update(T* address, Update update, Site site) {
  maybe_preempt(site);
  before_atomic(address);
  auto* word = reinterpret_cast<Bits<T>*>(address);
  Bits<T> old_bits = __atomic_load_n(word, __ATOMIC_RELAXED), new_bits;
  do {
    new_bits = std::bit_cast<Bits<T>>(static_cast<T>(update(std::bit_cast<T>(old_bits))));
  } while (!__atomic_compare_exchange_n(word, &old_bits, new_bits, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
  after_atomic(address);
  return std::bit_cast<T>(old_bits);
}

}  // namespace emulation

#define TRPO_EMULATE_ATOMIC(name, T, expression)                                       \
  inline T name(T* address, T value TRPO_SITE_PARAM) {                                 \
    return emulation::atomic_update(address, [=](T old) { return expression; }, site); \
  }
#define TRPO_EMULATE_INTEGER_ATOMICS(T)                                       \
  TRPO_EMULATE_ATOMIC(atomicAdd, T, old + value)                              \
  TRPO_EMULATE_ATOMIC(atomicMin, T, value < old ? value : old)                \
  TRPO_EMULATE_ATOMIC(atomicMax, T, old < value ? value : old)                \
  TRPO_EMULATE_ATOMIC(atomicExch, T, (void(old), value))                      \
  TRPO_EMULATE_ATOMIC(atomicAnd, T, old& value)                               \
  TRPO_EMULATE_ATOMIC(atomicOr, T, old | value)                               \
  inline T atomicCAS(T* address, T expected, T value TRPO_SITE_PARAM) {       \
    return emulation::atomic_update(                                          \
        address, [=](T old) { return old == expected ? value : old; }, site); \
  }
TRPO_EMULATE_INTEGER_ATOMICS(int)
TRPO_EMULATE_INTEGER_ATOMICS(unsigned)
TRPO_EMULATE_INTEGER_ATOMICS(unsigned long long)
TRPO_EMULATE_ATOMIC(atomicAdd, float, old + value)
TRPO_EMULATE_ATOMIC(atomicExch, float, (void(old), value))
TRPO_EMULATE_ATOMIC(atomicAdd, double, old + value)
#undef TRPO_EMULATE_INTEGER_ATOMICS
#undef TRPO_EMULATE_ATOMIC

inline void __threadfence() { emulation::fence(); }
inline void __threadfence_block() { emulation::fence(); }

namespace trpo_fast::cuda {

// Device-scope acquire, release and relaxed accesses to a flag.
inline unsigned load_acquire(const unsigned* flag TRPO_SITE_PARAM) {
  emulation::maybe_preempt(site);
  return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}
inline unsigned load_relaxed(const unsigned* flag TRPO_SITE_PARAM) {
  emulation::maybe_preempt(site);
  const unsigned value = __atomic_load_n(flag, __ATOMIC_RELAXED);
  emulation::after_atomic(flag);
  return value;
}
inline void store_release(unsigned* flag, unsigned value TRPO_SITE_PARAM) {
  emulation::maybe_preempt(site);
  __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}
inline void add_release(unsigned* flag, unsigned value TRPO_SITE_PARAM) {
  emulation::maybe_preempt(site);
  __atomic_fetch_add(flag, value, __ATOMIC_RELEASE);
}
inline unsigned add_acquire_release(unsigned* flag, unsigned value TRPO_SITE_PARAM) {
  emulation::maybe_preempt(site);
  return __atomic_fetch_add(flag, value, __ATOMIC_ACQ_REL);
}

}  // namespace trpo_fast::cuda
