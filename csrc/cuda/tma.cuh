// Copies of boxes between global and shared memory. Outside a matrix, loads give zeros and stores write nothing.
#pragma once

#include "barriers.cuh"

namespace sparsedrop {

struct alignas(64) TensorMap {
  u64 words[16];
};

__device__ __forceinline__ void prefetch(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// `inner` runs along memory. Counts its bytes on `full`.
__device__ __forceinline__ void load_box(void* to, const TensorMap& map, int inner, int outer, Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(to)),
      "l"(&map), "r"(inner), "r"(outer), "r"(shared_address(&full))
      : "memory");
}

// Into the same place of two thread blocks side by side; counts on the barrier of each.
__device__ __forceinline__ void load_box_for_both(void* to, const TensorMap& map, int inner, int outer, Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
          shared_address(to)),
      "l"(&map), "r"(inner), "r"(outer), "r"(shared_address(&full)), "h"(static_cast<unsigned short>(3))
      : "memory");
}

__device__ __forceinline__ void store_box(const TensorMap& map, int inner, int outer, const void* from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(inner),
               "r"(outer), "r"(shared_address(from))
               : "memory");
}

__device__ __forceinline__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Until this thread's stores have read shared memory.
__device__ __forceinline__ void wait_stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

}  // namespace sparsedrop
