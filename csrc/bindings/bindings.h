// The families of kernels that module.cpp assembles into trpo_fast._C.
#pragma once
#include <pybind11/pybind11.h>

#include "shared/params.h"

namespace trpo_fast {

void bind_problem(pybind11::module_& m);
void bind_cpu(pybind11::module_& m);
void bind_act(pybind11::module_& m);
void bind_critic(pybind11::module_& m);
void bind_cuda(pybind11::module_& m);
void bind_cuda_rollout(pybind11::module_& m);
void bind_cuda_critic(pybind11::module_& m);

// Raw addresses of the rows that acting reads and writes, the same from call to call; zero stands for
// "absent" where ActRows allows null.
struct ActAddresses {
  int64_t count;
  uintptr_t obs, seen, mask, noise, actions, log_probs, values;
};
void set_act_rows(const NetShape& policy, const ActAddresses& at, uintptr_t value_shift,
                  uintptr_t value_scale, ActRows* rows);

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace trpo_fast
