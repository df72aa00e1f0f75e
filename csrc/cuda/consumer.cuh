// The warps that multiply, in two groups, each with half of a tile's lines of A. They see tiles and steps, but never a mask.
// The groups wait for each other only where they take parts of a sum.
#pragma once

#include "epilogue.cuh"
#include "parts.cuh"
#include "wgmma.cuh"

namespace sparsedrop {

// One step is under way while the next one starts; its stage is free when it ends. Under the first four, the last tile leaves.
template <int Sums>
__device__ __forceinline__ void sum_steps(Shared& shared, const Maps& maps, float (&c)[Sums], int steps,
                                          const Ring<kTilesAhead>& now, Ring<kStages>& stage, const Outgoing& outgoing) {
  const u32 base = shared_address(shared.stages[0]);
  const auto start = [&](bool add) {
    const u32 at = base + stage.slot() * kStageBytes;
    wait(shared.full[stage.slot()], stage.parity());
    multiply<kALinesFirst, kBLinesFirst>(c, describe<kALinesFirst>(at + group() * (kABytes / 2)),
                                         describe<kBLinesFirst>(at + kABytes), add);
  };
  const auto go_on = [&] {
    const int before = stage.slot();
    stage.advance();
    start(true);
    wgmma_wait<1>();
    arrive_at_all(shared.empty[before]);
  };
  start(false);
  outgoing.send<0>(shared, maps, now);
  if (steps > 1) go_on();
  outgoing.send<1>(shared, maps, now);
  if (steps > 2) go_on();
  outgoing.send<2>(shared, maps, now);
  if (steps > 3) go_on();
  outgoing.send<3>(shared, maps, now);
#pragma unroll 1
  for (int left = steps - 4; left > 0; --left) go_on();
}

__device__ __forceinline__ Brief hear(Shared& shared, const Ring<kTilesAhead>& of) {
  wait(shared.tile_full[of.slot()], of.parity());
  return shared.tiles[of.slot()].brief;
}

// A tile's steps, and what becomes of its sums. The result is the next tile, which is heard of under the last step.
template <int Sums>
__device__ __forceinline__ Brief finish_tile(Shared& shared, const Arguments& args, const Maps& maps, Brief tile,
                                             Ring<kTilesAhead>& now, Ring<kStages>& stage, Outgoing& outgoing) {
  float c[Sums];
  sum_steps(shared, maps, c, tile.steps(), now, stage, outgoing);
  now.advance();
  const Brief next = hear(shared, now);
  wgmma_wait<0>();
  arrive_at_all(shared.empty[stage.slot()]);
  stage.advance();
  const Tile& told = shared.tiles[now.slot_before()];
  if (!tile.whole()) {
    give_part(shared, args, c, told.stretch);
  } else {
    if (tile.peers() > 0) take_parts(args, c, told.stretch, tile.peers());
    outgoing.take(told, c, args.bias != nullptr);
  }
  return next;
}

__device__ void consume(Shared& shared, const Arguments& args, const Maps& maps) {
  Ring<kStages> stage;
  Ring<kTilesAhead> now;
  Outgoing outgoing(args);
  Brief tile = hear(shared, now);
  while (tile.steps() > 0) {
    if (tile.slabs() > 2)
      tile = finish_tile<128>(shared, args, maps, tile, now, stage, outgoing);
    else
      tile = finish_tile<64>(shared, args, maps, tile, now, stage, outgoing);
  }
  outgoing.flush(shared, maps, now);
  give_nothing(shared);
}

}  // namespace sparsedrop
