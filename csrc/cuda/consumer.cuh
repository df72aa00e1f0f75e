// The warps that multiply. They see tiles and steps, but never a mask.
#pragma once

#include "epilogue.cuh"
#include "parts.cuh"
#include "shared.cuh"
#include "wgmma.cuh"

namespace sparsedrop {

// A stage that stores may still read from; it is free when they have.
struct Held {
  int slot = -1;
  __device__ __forceinline__ void release(Shared& shared) {
    if (slot < 0) return;
    if (threadIdx.x % 32 == 0) {
      wait_stores_read();
      arrive(shared.empty[slot]);
    }
    slot = -1;
  }
};

// One step is under way while the next one starts; its stage is free when it ends. The last one's stays with the caller.
template <bool Wide>
__device__ __forceinline__ void sum_steps(Shared& shared, float (&c)[128], Ring<kStages>& stage, Held& held, int steps,
                                          int group) {
  const u32 base = shared_address(shared.stages[0]);
  const bool speaks = threadIdx.x % 32 == 0;
  const auto start = [&](bool add) {
    const u32 at = base + stage.slot * kStageBytes;
    wait(shared.full[stage.slot], stage.parity);
    multiply<kALinesFirst, kBLinesFirst, Wide>(c, describe<kALinesFirst>(at + group * (kABytes / 2)),
                                               describe<kBLinesFirst>(at + kABytes), add);
  };
  start(false);
  held.release(shared);
  int before = stage.slot;
  stage.advance();
#pragma unroll 1
  for (int step = 1; step < steps; ++step) {
    start(true);
    wgmma_wait<1>();
    if (speaks) arrive(shared.empty[before]);
    before = stage.slot;
    stage.advance();
  }
  wgmma_wait<0>();
  held.slot = before;
}

// The bias of the tile's lines of B, for the four warps that will add it.
__device__ __forceinline__ void fetch_bias(const Arguments& args, unsigned short* to, const Tile& tile) {
  const int i = threadIdx.x % 128;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = tile.column[2 * half + i / kSlab] + i % kSlab;
    to[128 * half + i] = at < args.size_b ? static_cast<const unsigned short*>(args.bias)[at] : 0;
  }
}

// Half of a tile, two slabs: scaled, brought into shared memory and on its way out, each by a warp of its own.
__device__ __forceinline__ void store_half(Shared& shared, const Maps& maps, const Tile& tile, float* c, int half,
                                           char* first, char* second, float scale, float scale_2, bool has_bias) {
  const int group = threadIdx.x / 128 - 1, slab = threadIdx.x / 32 % 4;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    float2 add = make_float2(0.f, 0.f);
    if (has_bias) add = unpack(shared.bias[group] + 128 * half + 8 * j + threadIdx.x % 4 * 2, scale_2);
    c[4 * j] = c[4 * j] * scale + add.x, c[4 * j + 1] = c[4 * j + 1] * scale + add.y;
    c[4 * j + 2] = c[4 * j + 2] * scale + add.x, c[4 * j + 3] = c[4 * j + 3] * scale + add.y;
  }
  stage_slab<kTransposed>(first, c);
  stage_slab<kTransposed>(second, c + 32);
  publish_shared();
  meet(2 + group, 128);
  if (slab / 2 == half && slab < tile.slabs && threadIdx.x % 32 == 0) {
    const int line = tile.line + group * 64, column = tile.column[slab];
    store_box(maps.c, kTransposed ? line : column, kTransposed ? column : line, slab % 2 ? second : first);
    commit_stores();
  }
}

__device__ void consume(Shared& shared, const Arguments& args, const Maps& maps) {
  const int group = threadIdx.x / 128 - 1;
  const float scale_2 = args.scale_2 ? *args.scale_2 : 1.f, scale = args.scale_1 ? *args.scale_1 * scale_2 : scale_2;
  Ring<kStages> stage;
  Ring<kTilesAhead> slot;
  Held held;
  float c[128];
  bool gave = false;
  while (true) {
    wait(shared.tile_full[slot.slot], slot.parity);
    const Tile& tile = shared.tiles[slot.slot];
    if (tile.steps == 0) break;
    const int halves = tile.slabs > 2 ? 2 : 1;
    if (halves == 2)
      sum_steps<true>(shared, c, stage, held, tile.steps, group);
    else
      sum_steps<false>(shared, c, stage, held, tile.steps, group);
    if (tile.whole) {
      if (args.bias) fetch_bias(args, shared.bias[group], tile);
      if (tile.peers > 0) take_parts(args, c, tile.peers, halves);
      // All four warps' earlier stores have read the staging.
      meet(2 + group, 128);
      char* last = shared.stages[held.slot];
      store_half(shared, maps, tile, c, 0, shared.staging[group], last + group * kSlabBytes, scale, scale_2, args.bias != nullptr);
      if (halves == 2) {
        // The other four warps may still read B there.
        meet(1, kMathThreads);
        char* of_b = last + kABytes + group * 2 * kSlabBytes;
        store_half(shared, maps, tile, c + 64, 1, of_b, of_b + kSlabBytes, scale, scale_2, args.bias != nullptr);
      }
    } else {
      if (threadIdx.x == 128) shared.gives = true;
      give_part(args, c, halves, shared.given);
      gave = true;
      held.release(shared);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(shared.tile_empty[slot.slot]);
    slot.advance();
  }
  held.release(shared);
  if (!gave) arrive(shared.given);
}

}  // namespace sparsedrop
