// C[a, b] = Σ_t A[a, t] · B[b, t] over the blocks of t that a mask keeps, for the blocks of C that a mask keeps: the masked
// product and the masked reduction, on Hopper's copy engine and tensor cores.
#include "consumer.cuh"
#include "producer.cuh"

extern "C" __global__ void __launch_bounds__(sparsedrop::kThreads, 1)
    masked_matmul(const __grid_constant__ sparsedrop::Maps maps, const __grid_constant__ sparsedrop::Arguments args) {
  using namespace sparsedrop;
  extern __shared__ __align__(1024) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == kThreads - 1) {  // the others may have lines to count
    if (shared_address(memory) % 1024) __trap();
    for (int i = 0; i < kStages; ++i) init(shared.full[i], 1), init(shared.empty[i], kMathThreads / 32);
    for (int i = 0; i < kTilesAhead; ++i) init(shared.tile_full[i], 1), init(shared.tile_empty[i], kMathThreads / 32);
    init(shared.given, kMathThreads);
    shared.gives = false;
    shared.bias_scale = args.scale_2 ? *args.scale_2 : 1.f;
    shared.scale = args.scale_1 ? *args.scale_1 * shared.bias_scale : shared.bias_scale;
    publish_barriers();
    prefetch(maps.a), prefetch(maps.b), prefetch(maps.c);
  }
  if (threadIdx.x < kZeroRows * 8) {
    reinterpret_cast<uint4*>(shared.zeros)[threadIdx.x] = make_uint4(0, 0, 0, 0);
    publish_shared();
  }
  make_schedule<kThreads>(shared.schedule, *reinterpret_cast<Counts*>(shared.stages), args);
  if (threadIdx.x < 128) {
    shrink_registers<72>();
    if (threadIdx.x < 32)
      produce(shared, args, maps);
    else if (threadIdx.x < 64 && args.out.plan)
      write_zeros(shared, args, maps);
    else if (threadIdx.x == 64)
      publish_part(shared, args);
  } else {
    grow_registers<216>();
    consume(shared, args, maps);
  }
}
