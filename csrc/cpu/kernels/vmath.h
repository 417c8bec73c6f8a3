// Elementary functions and activations on GNU vectors of floats, for the isa_*.cpp units: no STL,
// no calls, everything inlined and local to the unit. V is a vector of 1, 4, 8 or 16 floats.
//
// Largest error against float64 over all floats, in units in the last place (of the smallest normal
// for denormal results), as asserted by tests/cpu/test_vmath.py, with and without fused multiply-add:
//   exp, log 1   expm1, elu, log1p 1.5   tanh, sigmoid 2.5   silu 3.5   normal_cdf 7   gelu 8
//   slopes of silu and gelu, which cross zero: 2.5e-7 absolute
// sigmoid, normal_cdf, silu and gelu keep these bounds in their tails down to results of 1e-36.
// NaN gives NaN. Infinities go to the limits, but silu(-inf) and gelu(-inf) are NaN as in PyTorch.
#pragma once
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "shared/params.h"

#define TRPO_VMATH   \
  template <class V> \
  static inline __attribute__((always_inline))

namespace trpo_fast::cpu {
namespace {
namespace vmath {

template <class V>
struct Bits {
  typedef int I __attribute__((vector_size(sizeof(V))));
};
template <class V>
using Ints = typename Bits<V>::I;

TRPO_VMATH V splat(float value) { return V{} + value; }
TRPO_VMATH Ints<V> as_ints(V x) { return reinterpret_cast<Ints<V>>(x); }
TRPO_VMATH V as_floats(Ints<V> bits) { return reinterpret_cast<V>(bits); }

// A comparison with NaN is false, so both keep a NaN in x.
TRPO_VMATH V at_most(V x, float limit) { return x > limit ? splat<V>(limit) : x; }
TRPO_VMATH V at_least(V x, float limit) { return x < limit ? splat<V>(limit) : x; }

TRPO_VMATH V absolute(V x) { return as_floats<V>(as_ints(x) & 0x7fffffff); }
TRPO_VMATH V with_sign_of(V magnitude, V x) {
  return as_floats<V>(as_ints(magnitude) | (as_ints(x) & static_cast<int>(0x80000000u)));
}

// Horner's rule, highest power first: a x^k + b x^(k-1) + ...
TRPO_VMATH V polynomial(V, V accumulated) { return accumulated; }
template <class V, class... Rest>
static inline __attribute__((always_inline)) V polynomial(V x, V accumulated, float next,
                                                          Rest... rest) {
  return polynomial<V>(x, accumulated * x + next, rest...);
}

// a / b for 2^-20 <= b <= 2^64: off by one unit in the last place at most.
TRPO_VMATH V divide(V a, V b) {
#ifdef __AVX512F__
  // Reciprocal estimate, one Newton step, one correction of the quotient: a third of a division.
  if constexpr (sizeof(V) == 64) {
    V r = reinterpret_cast<V>(_mm512_maskz_rcp14_ps(0xffff, reinterpret_cast<__m512>(b)));
    r = r + r * (1.0f - b * r);
    const V q = a * r;
    return q + r * (a - b * q);
  }
#endif
  return a / b;
}

// 2^n for integral -126 <= n <= 127
TRPO_VMATH V power_of_two(Ints<V> n) { return as_floats<V>((n + 127) << 23); }

// x = n ln2 + r with |r| <= ln2 / 2; n is exact for |x| < 2^20. NaN stays in r.
template <class V>
struct Reduced {
  Ints<V> n;
  V r;
};
TRPO_VMATH Reduced<V> reduce(V x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const V shifted = x * 1.44269504f + kRound;
  const V n = shifted - kRound;
  // ln2 in two parts, the first with so few bits that n times it is exact
  return {as_ints(shifted) - as_ints(splat<V>(kRound)),
          (x - n * 0.693359375f) + n * 2.12194440e-4f};
}

// e^r - 1 for |r| <= ln2 / 2
TRPO_VMATH V expm1_reduced(V r) {
  const V q = polynomial<V>(r, splat<V>(1.97677509e-4f), 1.39332283e-3f, 8.33354052e-3f,
                            4.16664854e-2f, 1.66666657e-1f, 0.5f);
  return r + r * r * q;
}

// e^(x + small); the result may be denormal or infinite, so 2^n is applied in two halves.
TRPO_VMATH V exp_sum(V x, V small) {
  const Reduced<V> e = reduce<V>(at_most<V>(at_least<V>(x, -104.0f), 89.0f));
  const Ints<V> half = e.n >> 1;
  return (expm1_reduced<V>(e.r + small) + 1.0f) * power_of_two<V>(half) *
         power_of_two<V>(e.n - half);
}

TRPO_VMATH V exp(V x) { return exp_sum<V>(x, V{}); }

TRPO_VMATH V expm1(V x) {
  const Reduced<V> e = reduce<V>(at_most<V>(at_least<V>(x, -30.0f), 89.0f));
  // 2^(n-1), doubled at the end: at n = 128 the power itself would not fit.
  const V scale = power_of_two<V>(e.n - 1);
  const V result = (scale * expm1_reduced<V>(e.r) + (scale - 0.5f)) * 2.0f;
  return absolute(x) < 1e-30f ? x : result;
}

// With E = e^(-2|x|): tanh|x| = (1 - E) / (1 + E) near zero, where 1 - E comes from expm1, and
// 1 - 2 E / (1 + E) from 0.55 on, where that rounds less.
TRPO_VMATH V tanh(V x) {
  const V y = at_most<V>(absolute(x), 9.5f);  // tanh rounds to 1 from 9.02
  const Reduced<V> e = reduce<V>(y * -2.0f);
  const V scale = power_of_two<V>(e.n);
  const V em1 = expm1_reduced<V>(e.r);
  const V large_e = scale + scale * em1;
  const V numerator = y > 0.55f ? large_e + large_e : (1.0f - scale) - scale * em1;
  const V q = divide<V>(numerator, large_e + 1.0f);
  return with_sign_of<V>(y > 0.55f ? 1.0f - q : absolute(q), x);
}

// log(2^k (1 + f)) for 1 + f in [sqrt(1/2), sqrt(2)]
TRPO_VMATH V log_parts(V k, V f) {
  const V p =
      polynomial<V>(f, splat<V>(-7.63644949e-2f), 1.27662078e-1f, -1.31614640e-1f, 1.42011762e-1f,
                    -1.66231900e-1f, 2.00012505e-1f, -2.50008255e-1f, 3.33333313e-1f);
  const V square = f * f;
  const V tail = f * square * p - k * 2.12194440e-4f;
  return (f + (tail - 0.5f * square)) + k * 0.693359375f;
}

// The exponent k that leaves x 2^-k in [sqrt(1/2), sqrt(2)), for normal positive x
TRPO_VMATH Ints<V> log_exponent(V x) { return (as_ints(x) - 0x3f3504f3) >> 23; }

TRPO_VMATH V log_limits(V x, V result) {
  const V infinity = splat<V>(__builtin_inff());
  result = x == infinity ? infinity : result;
  result = x == 0.0f ? -infinity : result;
  return x >= 0.0f ? result : splat<V>(__builtin_nanf(""));
}

TRPO_VMATH V log(V x) {
  const V scaled = x < 1.17549435e-38f ? x * 8388608.0f : x;  // denormals times 2^23
  const Ints<V> k = log_exponent<V>(scaled);
  const V m = as_floats<V>(as_ints(scaled) - (k << 23));
  const V exponent = __builtin_convertvector(k, V);
  return log_limits<V>(x,
                       log_parts<V>(x < 1.17549435e-38f ? exponent - 23.0f : exponent, m - 1.0f));
}

// 1 + x = u + c with u the rounded sum; c is carried into the fraction.
TRPO_VMATH V log1p(V x) {
  const V u = x + 1.0f;
  const V c = x > 1.0f ? 1.0f - (u - x) : x - (u - 1.0f);
  const Ints<V> k = log_exponent<V>(u);
  const V m = as_floats<V>(as_ints(u) - (k << 23));
  const V f = (m - 1.0f) + c * as_floats<V>((k > 126 ? Ints<V>{} : 127 - k) << 23);
  const V result = log_limits<V>(u, log_parts<V>(__builtin_convertvector(k, V), f));
  return absolute(x) < 1e-30f ? x : result;
}

// 1 / (1 + e^-x) and its complement, both accurate in the tails
template <class V>
struct Sigmoid {
  V value, complement;
};
TRPO_VMATH Sigmoid<V> sigmoid_pair(V x) {
  const V e = exp<V>(-absolute(x));
  const V large = divide<V>(splat<V>(1.0f), e + 1.0f);
  const V small = divide<V>(e, e + 1.0f);
  return {x < 0.0f ? small : large, x < 0.0f ? large : small};
}
TRPO_VMATH V sigmoid(V x) { return sigmoid_pair<V>(x).value; }

// The normal distribution's Phi(x) and e^(-x^2 / 2). With y = |x|, Phi(-y) is 1/2 - y R(y^2) near
// zero; elsewhere e^(-y^2 / 2) t P(t) with t = 1 / (1 + 0.28 y): P, the scaled tail, is smooth in t.
template <class V>
struct Normal {
  V cdf, kernel;
};
TRPO_VMATH Normal<V> normal(V x) {
  const V y = at_most<V>(absolute(x), 15.0f);  // e^(-y^2 / 2) is zero from 14.5
  const V head = as_floats<V>(as_ints(y) & static_cast<int>(0xfffff000u));  // its square is exact
  const V kernel = exp_sum<V>(head * head * -0.5f, (y - head) * (y + head) * -0.5f);
  const V t = divide<V>(splat<V>(1.0f), y * 0.28f + 1.0f);
  const V p = polynomial<V>(t, splat<V>(-1.10365581e-2f), 5.15877381e-2f, -7.38352761e-2f,
                            3.07036960e-3f, 4.48939800e-2f, -9.63832543e-4f, 7.88900331e-2f,
                            8.01937357e-2f, 1.03881113e-1f, 1.11610904e-1f, 1.11707792e-1f);
  const V near_zero = 0.5f - y * polynomial<V>(y * y, splat<V>(9.73485221e-5f), -1.17432245e-3f,
                                               9.96947754e-3f, -6.64898604e-2f, 3.98942262e-1f);
  const V tail = y < 0.75f ? near_zero : kernel * (t * p);
  return {x > 0.0f ? 1.0f - tail : tail, kernel};
}
TRPO_VMATH V normal_cdf(V x) { return normal<V>(x).cdf; }

// ---- activations

// True where act'(x) follows from act(x), so that a kernel need not keep a plane of slopes.
constexpr bool slope_from_value(Activation a) {
  return a != Activation::kSilu && a != Activation::kGelu;
}

template <Activation A, class V>
static inline __attribute__((always_inline)) V activate(V x) {
  if constexpr (A == Activation::kTanh) return tanh<V>(x);
  if constexpr (A == Activation::kRelu) return x < 0.0f ? V{} : x;
  if constexpr (A == Activation::kElu) return x > 0.0f ? x : expm1<V>(x);
  if constexpr (A == Activation::kSilu) return x * sigmoid<V>(x);
  if constexpr (A == Activation::kGelu) return x * normal_cdf<V>(x);
  return x;
}

// act'(x) from h = act(x)
template <Activation A, class V>
static inline __attribute__((always_inline)) V slope(V h) {
  static_assert(slope_from_value(A), "silu and gelu need the plane of slopes");
  if constexpr (A == Activation::kTanh) return 1.0f - h * h;
  if constexpr (A == Activation::kRelu) return h > 0.0f ? splat<V>(1.0f) : V{};
  if constexpr (A == Activation::kElu) return h > 0.0f ? splat<V>(1.0f) : h + 1.0f;
  return splat<V>(1.0f);
}

// Value and slope of any activation
template <class V>
struct Activated {
  V value, slope;
};
template <Activation A, class V>
static inline __attribute__((always_inline)) Activated<V> activate_with_slope(V x) {
  if constexpr (A == Activation::kSilu) {
    const Sigmoid<V> s = sigmoid_pair<V>(x);
    const V value = x * s.value;
    return {value, s.value + value * s.complement};
  } else if constexpr (A == Activation::kGelu) {
    const Normal<V> n = normal<V>(x);
    const V bounded = at_most<V>(at_least<V>(x, -20.0f), 20.0f);  // inf * 0 is not the limit
    return {x * n.cdf, n.cdf + bounded * n.kernel * 0.398942280f};
  } else {
    const V value = activate<A, V>(x);
    return {value, slope<A, V>(value)};
  }
}

}  // namespace vmath
}  // namespace
}  // namespace trpo_fast::cpu

#undef TRPO_VMATH
