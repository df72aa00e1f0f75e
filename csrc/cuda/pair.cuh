// Thread blocks side by side: they fetch A once for all, in step, and the first one's scout tells all what to do. One that is
// alone needs none of this.
#pragma once

#include "barriers.cuh"
#include "variant.cuh"

namespace sparsedrop {

static_assert(kPair == 1 || kPair == 2, "each fetches half of A for both");

// A thread block among those side by side, and these among all.
__device__ __forceinline__ int rank() { return static_cast<int>(blockIdx.x) % kPair; }
__device__ __forceinline__ int pair() { return static_cast<int>(blockIdx.x) / kPair; }
__device__ __forceinline__ int pairs() { return static_cast<int>(gridDim.x) / kPair; }

__device__ __forceinline__ void arrive_at(Barrier& barrier, int rank) {
  if constexpr (kPair > 1)
    arrive_beside(barrier, rank);
  else
    arrive(barrier);
}

// From a warp, at all of them.
__device__ __forceinline__ void arrive_at_all(Barrier& barrier) {
  const int lane = threadIdx.x % 32;
  if (lane < kPair) arrive_at(barrier, lane);
}

__device__ __forceinline__ u32 as_bits(int value) { return static_cast<u32>(value); }
__device__ __forceinline__ u32 as_bits(u32 value) { return value; }
__device__ __forceinline__ u32 as_bits(float value) { return __float_as_uint(value); }

// `tell` sends a value to one of them; when a warp has sent all, `told` says on `heard`, for which others wait, how many bytes those are.
template <class Value>
__device__ __forceinline__ void tell(Value& to, Value value, Barrier& heard, int rank) {
  if constexpr (kPair > 1)
    write_beside(&to, as_bits(value), heard, rank);
  else
    to = value;
}
__device__ __forceinline__ void told(Barrier& heard, int bytes, bool speaks, int rank) {
  if constexpr (kPair == 1)
    arrive(heard);
  else if (speaks)
    arrive_and_expect_beside(heard, static_cast<u32>(bytes), rank);
}
constexpr int kTelling = kPair > 1 ? 1 : 32;  // lanes that arrive with that

// All threads arrive, and wait later until all others have.
__device__ __forceinline__ void arrive_all() {
  if constexpr (kPair > 1) arrive_cluster();
}
__device__ __forceinline__ void arrive_all_with_barriers() {
  if constexpr (kPair > 1) arrive_cluster_relaxed();
}
__device__ __forceinline__ void wait_all() {
  if constexpr (kPair > 1) wait_cluster();
}

}  // namespace sparsedrop
