// Barriers in shared memory, which copies and warps arrive on, and ordering between the two.
#pragma once

namespace sparsedrop {

using Barrier = unsigned long long;
using u32 = unsigned int;
using u64 = unsigned long long;

__device__ __forceinline__ u32 shared_address(const void* pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void init(Barrier& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(Barrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}

// Arrives, and lets the phase end only after `bytes` have been copied.
__device__ __forceinline__ void arrive_and_expect(Barrier& barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void wait(Barrier& barrier, u32 parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ready;\n"
      "bra again;\n"
      "ready:\n"
      "}\n" ::"r"(shared_address(&barrier)),
      "r"(parity)
      : "memory");
}

// Arrives on the same barrier of thread block `rank` of the cluster, perhaps this one. Nothing that this thread wrote is made known.
__device__ __forceinline__ void arrive_beside(Barrier& barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(shared_address(&barrier)),
      "r"(rank)
      : "memory");
}

// The same, and lets the phase end only after `bytes` have been written.
__device__ __forceinline__ void arrive_and_expect_beside(Barrier& barrier, u32 bytes, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.expect_tx.shared::cluster.b64 _, [there], %2;\n"
      "}\n" ::"r"(shared_address(&barrier)),
      "r"(rank), "r"(bytes)
      : "memory");
}

// Writes four bytes to the same place in that thread block, which count on its barrier when they are there.
__device__ __forceinline__ void write_beside(void* to, u32 value, Barrier& barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there, counts;\n"
      "mapa.shared::cluster.u32 there, %0, %3;\n"
      "mapa.shared::cluster.u32 counts, %2, %3;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [there], %1, [counts];\n"
      "}\n" ::"r"(shared_address(to)),
      "r"(value), "r"(shared_address(&barrier)), "r"(rank)
      : "memory");
}

// All threads of the cluster arrive, and wait later until all others have, with what they did before. Relaxed, only barriers that
// were initialised and published are known.
__device__ __forceinline__ void arrive_cluster() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void arrive_cluster_relaxed() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
__device__ __forceinline__ void wait_cluster() { asm volatile("barrier.cluster.wait;" ::: "memory"); }

// Makes initialised barriers known to the copy engine.
__device__ __forceinline__ void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Makes what this thread wrote to shared memory visible to the copy engine.
__device__ __forceinline__ void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// True in one thread of the warp, of which the compiler then knows that it is alone.
__device__ __forceinline__ bool elect_one() {
  u32 elected;
  asm volatile("{ .reg .pred elected; elect.sync _|elected, 0xffffffff; selp.b32 %0, 1, 0, elected; }" : "=r"(elected));
  return elected;
}

// Until the kernels before this one in the stream have ended, and what they wrote is there.
__device__ __forceinline__ void wait_for_kernels_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Flags in global memory, seen by other thread blocks.
__device__ __forceinline__ void wait_flag(const u64* flag, u64 value) {
  u64 found;
  do {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(found) : "l"(flag) : "memory");
  } while (found != value);
}

__device__ __forceinline__ void set_flag(u64* flag, u64 value) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(flag), "l"(value) : "memory");
}

// Numbers from 0, a different one at each call; nobody waits before the number is looked at. (Of an addition the assembler makes one for
// all threads of a warp that might be there, and hands out its result at once.)
__device__ __forceinline__ u32 count_up(u64* count) {
  u32 number;
  asm volatile("atom.relaxed.gpu.global.inc.u32 %0, [%1], 0x7fffffff;" : "=r"(number) : "l"(count) : "memory");
  return number;
}

// Meets the `threads` threads that name the same barrier; 0 is __syncthreads'.
__device__ __forceinline__ void meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace sparsedrop
