// Buffers that are filled and emptied in turn.
#pragma once

#include "barriers.cuh"

namespace sparsedrop {

// A place in a ring of buffers, and the parity of its barriers there.
template <int Count>
struct Ring {
  int slot = 0;
  u32 parity = 0;
  __device__ __forceinline__ void advance() {
    if (++slot == Count) {
      slot = 0;
      parity ^= 1;
    }
  }
};

}  // namespace sparsedrop
