// Makes the plan of a net and moves vectors between flat order (trpo_fast.flat_params) and packed.
#pragma once
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/plan.h"

namespace trpo_fast::cpu {

Plan make_plan(const NetShape& net, const CpuKernels& kernels);

void pack(const Plan& plan, const float* flat, float* packed);     // [P] -> [plan.size]
void unpack(const Plan& plan, const float* packed, float* flat);   // [plan.size] -> [P]
void pack_back(const Plan& plan, const float* flat, float* back);  // [P] -> [plan.back_size]

}  // namespace trpo_fast::cpu
