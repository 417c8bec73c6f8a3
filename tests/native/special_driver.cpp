// csrc/shared/special.h as C functions on arrays; compiled by test_special.py.
#include "shared/special.h"

#define FOR_EACH(name)                                             \
  extern "C" void name##_(const double* x, double* y, long size) { \
    for (long i = 0; i < size; ++i) y[i] = trpo_fast::name(x[i]);  \
  }

FOR_EACH(log_gamma)
FOR_EACH(digamma)
FOR_EACH(trigamma)
