// The families of kernels that bindings.cpp assembles into trpo_fast._C.
#pragma once
#include <pybind11/pybind11.h>

namespace trpo_fast {

void bind_cpu(pybind11::module_& m);

}  // namespace trpo_fast
