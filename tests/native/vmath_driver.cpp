// csrc/cpu/kernels/vmath.h as C functions on arrays; compiled by test_vmath.py once per instruction set and
// vector length W.
#include "cpu/kernels/vmath.h"

using namespace trpo_fast;
using namespace trpo_fast::cpu;
using V = float __attribute__((vector_size(4 * W)));

#define FOR_EACH_VECTOR(name, ...)                                                      \
  extern "C" void name(const float* in, float* out, float* slope, long size) {          \
    for (long i = 0; i < size; i += W) {                                                \
      V x;                                                                              \
      __builtin_memcpy(&x, in + i, sizeof(V));                                          \
      const vmath::Activated<V> y = [](V x) -> vmath::Activated<V> { __VA_ARGS__; }(x); \
      __builtin_memcpy(out + i, &y.value, sizeof(V));                                   \
      __builtin_memcpy(slope + i, &y.slope, sizeof(V));                                 \
    }                                                                                   \
  }

FOR_EACH_VECTOR(exp_, return {vmath::exp<V>(x), x})
FOR_EACH_VECTOR(expm1_, return {vmath::expm1<V>(x), x})
FOR_EACH_VECTOR(log_, return {vmath::log<V>(x), x})
FOR_EACH_VECTOR(log1p_, return {vmath::log1p<V>(x), x})
FOR_EACH_VECTOR(sigmoid_, return {vmath::sigmoid<V>(x), x})
FOR_EACH_VECTOR(normal_cdf_, return {vmath::normal_cdf<V>(x), x})
FOR_EACH_VECTOR(tanh_, return vmath::activate_with_slope<Activation::kTanh, V>(x))
FOR_EACH_VECTOR(relu_, return vmath::activate_with_slope<Activation::kRelu, V>(x))
FOR_EACH_VECTOR(elu_, return vmath::activate_with_slope<Activation::kElu, V>(x))
FOR_EACH_VECTOR(silu_, return vmath::activate_with_slope<Activation::kSilu, V>(x))
FOR_EACH_VECTOR(gelu_, return vmath::activate_with_slope<Activation::kGelu, V>(x))
FOR_EACH_VECTOR(identity_, return vmath::activate_with_slope<Activation::kIdentity, V>(x))
