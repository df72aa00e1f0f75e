// The warp that feeds shared memory: it has the copy engine fill the stages, as the scout tells it.
#pragma once

#include "shared.cuh"

namespace sparsedrop {

__device__ __forceinline__ void load_step(const Maps& maps, char* stage, Barrier& full, const int (&column)[4],
                                          int halves, int line, int t) {
  arrive_and_expect(full, kABytes + halves * kHalfBytes);
  if constexpr (kPair > 1) {
    const int mine = rank() * kSlab;
    char* const here = stage + rank() * kSlabBytes;
    load_box_for_both(here, maps.a, kALinesFirst ? line + mine : t, kALinesFirst ? t : line + mine, full);
  } else if constexpr (kALinesFirst) {
    load_box(stage, maps.a, line, t, full);
    load_box(stage + kSlabBytes, maps.a, line + 64, t, full);
  } else {
    load_box(stage, maps.a, t, line, full);
  }
  char* to = stage + kABytes;
  constexpr int box = kBLinesFirst ? 64 : kPiece;
#pragma unroll
  for (int i = 0; i < 4; i += box / 64) {
    if (i < 2 * halves) {
      if constexpr (kBLinesFirst)
        load_box(to + i * kSlabBytes, maps.b, column[i], t, full);
      else
        load_box(to + i * kSlabBytes, maps.b, t, column[i], full);
    }
  }
}

__device__ void produce(Shared& shared, const Arguments& args, const Maps& maps) {
  const bool speaks = elect_one();
  Ring<kStages> stage;
  Ring<kBatchesAhead> now;
  while (true) {
    wait(shared.batch_full[now.slot()], now.parity());
    const Batch& batch = shared.batches[now.slot()];
    const int line = batch.line, halves = batch.halves, count = batch.count, soon = batch.soon, terms = batch.term[threadIdx.x % 32];
    const int column[4] = {batch.column[0], batch.column[1], batch.column[2], batch.column[3]};
    int at = 0, within = batch.within, t = __shfl_sync(~0u, terms, at);
    __syncwarp();
    if (speaks) arrive_at(shared.batch_empty[now.slot()], 0);
    now.advance();
    if (count == 0) break;
#pragma unroll 1
    for (int step = 0; step < count; ++step) {
      wait(shared.empty[stage.slot()], stage.parity() ^ 1);
      if (speaks) load_step(maps, shared.stages[stage.slot()], shared.full[stage.slot()], column, halves, line, t + within);
      stage.advance();
      if (step == soon && speaks) arrive(shared.soon);
      within += kStep;
      if (within == args.walk.block) within = 0, t = __shfl_sync(~0u, terms, ++at);
    }
    __syncwarp();
  }
}

}  // namespace sparsedrop
