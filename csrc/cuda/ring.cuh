// Buffers that are filled and emptied in turn.
#pragma once

#include "barriers.cuh"

namespace sparsedrop {

// A place in a ring of buffers, and the parity of its barriers there.
template <int Count>
struct Ring {
  static_assert((Count & (Count - 1)) == 0, "a power of two, so that one register does for both");
  u32 turn = 0;
  __device__ __forceinline__ int slot() const { return static_cast<int>(turn % Count); }
  __device__ __forceinline__ int slot_before() const { return static_cast<int>((turn - 1) % Count); }
  __device__ __forceinline__ u32 parity() const { return turn / Count % 2; }
  __device__ __forceinline__ void advance() { ++turn; }
};

}  // namespace sparsedrop
