// C[a, b] = Σ_t A[a, t] · B[b, t] over the blocks of t that a mask keeps, for the blocks of C that a mask keeps: the masked
// product and the masked reduction, on Hopper's copy engine and tensor cores.
#include "consumer.cuh"
#include "producer.cuh"
#include "scout.cuh"
#include "zeros.cuh"

namespace sparsedrop {

// Touches both operands here and there, so that their pages' addresses are known when the first tile is.
__device__ __forceinline__ void touch(const Arguments& args, const Maps& maps) {
  const int a = blockIdx.x * kTileA % args.size_a, b = blockIdx.x * kPiece % args.size_b;
  fetch_box(maps.a, kALinesFirst ? a : 0, kALinesFirst ? 0 : a);
  fetch_box(maps.b, kBLinesFirst ? b : 0, kBLinesFirst ? 0 : b);
}

// What the others will wait on, and the zeros.
__device__ __forceinline__ void prepare(Shared& shared, const Arguments& args, const Maps& maps) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 0 && lane == 0) {
    if (shared_address(&shared) % 1024) __trap();
    for (int i = 0; i < kStages; ++i) init(shared.full[i], 1), init(shared.empty[i], kMathThreads / 32);
    publish_barriers();
  } else if (warp == 2) {
    if (args.out.plan) {
      for (int i = lane; i < kZeroRows * 8; i += 32) reinterpret_cast<uint4*>(shared.zeros)[i] = make_uint4(0, 0, 0, 0);
      publish_shared();
    }
    if (lane == 0) prefetch(maps.a), prefetch(maps.b), prefetch(maps.c), touch(args, maps);
  } else if (warp == 3 && lane == 0) {
    for (int i = 0; i < kTilesAhead; ++i) init(shared.tile_full[i], 1), init(shared.tile_empty[i], kMathThreads / 32);
    for (int i = 0; i < kBatchesAhead; ++i) init(shared.batch_full[i], 1), init(shared.batch_empty[i], 1);
    init(shared.scheduled, kMathThreads / 32), init(shared.soon, 1), init(shared.given, kMathThreads);
    shared.gives = -1;
    publish_barriers();
  }
}

}  // namespace sparsedrop

extern "C" __global__ void __launch_bounds__(sparsedrop::kThreads, 1)
    masked_matmul(const __grid_constant__ sparsedrop::Maps maps, const __grid_constant__ sparsedrop::Arguments args) {
  using namespace sparsedrop;
  extern __shared__ __align__(1024) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x >= 128) {
    const Line line = scheduler() < args.lines ? Line::read(args, scheduler()) : Line{};
    __syncthreads();
    make_schedule(shared.schedule, counts_in(shared), args, line);
    __syncwarp();
    if (elect_one()) arrive(shared.scheduled);
    grow_registers<216>();
    consume(shared, args, maps);
  } else {
    const int warp = threadIdx.x / 32;
    Opening opening;
    if (warp == 1)
      opening.begin(args);
    else
      prepare(shared, args, maps);
    __syncthreads();
    shrink_registers<72>();
    if (warp == 0) {
      produce(shared, args, maps);
    } else if (warp == 1) {
      scout(shared, args, opening);
    } else if (warp == 2) {
      if (args.out.plan) write_zeros(shared, args, maps);
    } else if (threadIdx.x % 32 == 0) {
      publish_part(shared, args);
    }
  }
}
