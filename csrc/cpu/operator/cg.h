// What conjugate gradient keeps of one right-hand side beside its vectors.
#pragma once

namespace trpo_fast::cpu {

struct CgColumn {
  double rr = 0.0, rz = 0.0;  // r'r and r'z, which is r'r without a preconditioner
  double threshold = 0.0;     // of r'r
  double gain = 0.0;          // x'Ax, as the sum of alpha r'z
  int exponent = 0;           // g was scaled by 2^-exponent
  int small = 0;              // products in a row that brought little of it
  bool active = true, plain = true;
};

}  // namespace trpo_fast::cpu
