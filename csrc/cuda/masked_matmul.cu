// C[a, b] = Σ_t A[a, t] · B[b, t] over the blocks of t that a mask keeps, for the blocks of C that a mask keeps: the masked
// product and the masked reduction, on Hopper's copy engine and tensor cores.
#include "consumer.cuh"
#include "producer.cuh"
#include "scout.cuh"
#include "zeros.cuh"

#if SPARSEDROP_PAIR > 1
#define SPARSEDROP_CLUSTER __cluster_dims__(SPARSEDROP_PAIR, 1, 1)
#else
#define SPARSEDROP_CLUSTER
#endif

extern "C" __global__ void SPARSEDROP_CLUSTER __launch_bounds__(sparsedrop::kThreads, 1)
    masked_matmul(const __grid_constant__ sparsedrop::Maps maps, const __grid_constant__ sparsedrop::Arguments args) {
  using namespace sparsedrop;
  extern __shared__ __align__(1024) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  // One thread in each warp from the far end: the others may have lines to count.
  const int far = threadIdx.x % 32 ? -1 : (kThreads - 1 - static_cast<int>(threadIdx.x)) / 32;
  if (far == 0) {
    if (shared_address(memory) % 1024) __trap();
    for (int i = 0; i < kStages; ++i) init(shared.full[i], 1), init(shared.empty[i], kPair * kMathThreads / 32);
    publish_barriers();
  } else if (far == 1) {
    for (int i = 0; i < kTilesAhead; ++i) init(shared.tile_full[i], kTelling), init(shared.tile_empty[i], kPair * kMathThreads / 32);
    for (int i = 0; i < kBatchesAhead; ++i) init(shared.batch_full[i], kTelling), init(shared.batch_empty[i], kPair);
    publish_barriers();
  } else if (far == 2) {
    init(shared.soon, 1), init(shared.given, kMathThreads);
    shared.gives = -1;
    publish_barriers();
  } else if (far == 3) {
    prefetch(maps.a), prefetch(maps.b), prefetch(maps.c);
  }
  if (args.out.plan && threadIdx.x / (kZeroRows * 8) == 4) {
    reinterpret_cast<uint4*>(shared.zeros)[threadIdx.x % (kZeroRows * 8)] = make_uint4(0, 0, 0, 0);
    publish_shared();
  }
  arrive_all_with_barriers();
  wait_for_kernels_before();
  // Only the first one: its first copies fill the other's stages too, where a schedule would be in the making.
  if (rank() == 0)
    make_schedule<kThreads>(shared.schedule, *reinterpret_cast<Counts*>(shared.stages), args);
  else
    __syncthreads();
  wait_all();
  if (threadIdx.x < 128) {
    shrink_registers<72>();
    const int warp = threadIdx.x / 32;
    if (warp == 0) {
      produce(shared, args, maps);
    } else if (warp == 1) {
      if (rank() == 0) scout(shared, args);
    } else if (warp == 2) {
      if (args.out.plan) write_zeros(shared, args, maps);
    } else if (threadIdx.x % 32 == 0) {
      publish_part(shared, args);
    }
  } else {
    grow_registers<216>();
    consume(shared, args, maps);
  }
  // The other one may still arrive here.
  arrive_all();
  wait_all();
}
