// From registers to shared memory, as the copy engine reads it.
#pragma once

#include "registers.cuh"

namespace sparsedrop {

// A slab, 64 lines of A by 64 of B, into shared memory as the copy engine reads it: swizzled rows of 128 bytes.
template <bool Transposed>
__device__ __forceinline__ void stage_slab(char* to, const float* c) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, matrix = lane / 8, row_in_matrix = lane % 8;
  const u32 base = shared_address(to);
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    // Matrices 0 and 2 hold lines 0 to 7 of the warp's 16, matrices 1 and 3 the others; 2 and 3 the next eight of B.
    const int along_a = warp * 2 + matrix % 2, along_b = j + matrix / 2;
    const int row = (Transposed ? along_b : along_a) * 8 + row_in_matrix, chunk = Transposed ? along_a : along_b;
    const float* d = c + j * 4;
    store_matrices<Transposed>(base + row * 128 + ((chunk ^ (row % 8)) << 4), pack(d[0], d[1]), pack(d[2], d[3]),
                               pack(d[4], d[5]), pack(d[6], d[7]));
  }
}

}  // namespace sparsedrop
