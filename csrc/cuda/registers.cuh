// 16-bit elements in registers, and their way into shared memory.
#pragma once

#include "barriers.cuh"

namespace sparsedrop {

__device__ __forceinline__ u32 pack(float low, float high) {
  u32 both;
  asm("cvt.rn." SPARSEDROP_TYPE "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

__device__ __forceinline__ float to_float(unsigned short bits) {
  float value;
  asm("cvt.f32." SPARSEDROP_TYPE " %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// Four 8×8 matrices of 16-bit elements, one row of one of them at each thread's address.
template <bool Transposed>
__device__ __forceinline__ void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
  if constexpr (Transposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b),
                 "r"(c), "r"(d)
                 : "memory");
}

}  // namespace sparsedrop
