// Sums of a tile that several thread blocks share: handed on through global memory.
#pragma once

#include "shared.cuh"

namespace sparsedrop {

constexpr int kAtOnce = 8;  // loads under way

// Of a stretch, this thread block's share.
__device__ __forceinline__ int share_of(int stretch) { return stretch * kPair + rank(); }

__device__ __forceinline__ float4* part_of(const Arguments& args, int stretch) {
  return reinterpret_cast<float4*>(args.partials) + static_cast<long long>(share_of(stretch)) * (kTileA * kTileB / 4) +
         (threadIdx.x % kMathThreads);
}

// The beginning of a tile that another thread block completes. `given` tells a thread that publishes it.
template <int Sums>
__device__ __forceinline__ void give_part(Shared& shared, const Arguments& args, const float (&c)[Sums], int stretch) {
  float4* to = part_of(args, stretch);
#pragma unroll
  for (int i = 0; i < Sums / 4; ++i)
    __stcg(to + i * kMathThreads, make_float4(c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3]));
  if (threadIdx.x == 128) shared.gives = stretch;
  arrive(shared.given);
}

// At the end, so that the thread that publishes need not wait for a part that never comes.
__device__ __forceinline__ void give_nothing(Shared& shared) {
  meet(1, kMathThreads);
  if (shared.gives < 0) arrive(shared.given);
}

// Adds what others summed, in the order of the sum, so that the same masks give the same bits. Those others began no later, and
// each gives its part before it waits for another's: all come to an end.
template <int Sums>
__device__ __forceinline__ void take_parts(const Arguments& args, float (&c)[Sums], int stretch, int peers) {
#pragma unroll 1
  for (int other = stretch - peers; other < stretch; ++other) {
    wait_flag(args.flags + share_of(other), args.ticket);
    const float4* from = part_of(args, other);
#pragma unroll
    for (int i = 0; i < Sums / 4; i += kAtOnce) {
      float4 part[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) part[j] = __ldcg(from + (i + j) * kMathThreads);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        float* to = c + 4 * (i + j);
        to[0] += part[j].x, to[1] += part[j].y, to[2] += part[j].z, to[3] += part[j].w;
      }
    }
    meet(1, kMathThreads);
    if (threadIdx.x % kMathThreads == 0) set_flag(args.flags + share_of(other), 0);
  }
}

// Tells others of the part that this thread block may give: all who wrote it have arrived.
__device__ void publish_part(Shared& shared, const Arguments& args) {
  wait(shared.given, 0);
  if (shared.gives < 0) return;
  __threadfence();
  set_flag(args.flags + share_of(shared.gives), args.ticket);
}

}  // namespace sparsedrop
