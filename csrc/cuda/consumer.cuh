// The warps that multiply, in two groups, each with half of a tile's lines of A. They see tiles and steps, but never a mask.
// The groups wait for each other only where they take parts of a sum.
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
template <int Sums>
__device__ __forceinline__ void sum_steps(Shared& shared, float (&c)[Sums], Ring<kStages>& stage, Held& held, int steps,
                                          int group) {
  const u32 base = shared_address(shared.stages[0]);
  const bool speaks = threadIdx.x % 32 == 0;
  const auto start = [&](bool add) {
    const u32 at = base + stage.slot * kStageBytes;
    wait(shared.full[stage.slot], stage.parity);
    multiply<kALinesFirst, kBLinesFirst>(c, describe<kALinesFirst>(at + group * (kABytes / 2)),
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

// What a thread brings of the bias of a tile's lines of B, for the four warps that will add it.
struct Bias {
  unsigned short values[2];
  __device__ __forceinline__ void fetch(const Arguments& args, const Tile& tile) {
    const int i = threadIdx.x % 128;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = tile.column[2 * half + i / kSlab] + i % kSlab;
      values[half] = at < args.size_b ? static_cast<const unsigned short*>(args.bias)[at] : 0;
    }
  }
  __device__ __forceinline__ void share(unsigned short* to) const {
    to[threadIdx.x % 128] = values[0], to[128 + threadIdx.x % 128] = values[1];
  }
};

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
  Bias bias;
  float c[128];
  bool gave = false;
  while (true) {
    wait(shared.tile_full[slot.slot], slot.parity);
    const Tile& tile = shared.tiles[slot.slot];
    if (tile.steps == 0) break;
    if (args.bias) bias.fetch(args, tile);
    const int halves = tile.slabs > 2 ? 2 : 1;
    if (halves == 2) {
      sum_steps(shared, c, stage, held, tile.steps, group);
    } else {
      // Sums of their own: the compiler finds no registers that suit both widths.
      float half[64];
      sum_steps(shared, half, stage, held, tile.steps, group);
#pragma unroll
      for (int i = 0; i < 64; ++i) c[i] = half[i];
    }
    if (tile.whole) {
      if (args.bias) bias.share(shared.bias[group]);
      if (tile.peers > 0) take_parts(args, c, tile.peers, halves);
      // Every warp of the group is done with its lines of A in the last step's stage, and its stores with the staging.
      meet(2 + group, 128);
      char *const first = shared.staging[group], *const second = shared.stages[held.slot] + group * (kABytes / 2);
      store_half(shared, maps, tile, c, 0, first, second, scale, scale_2, args.bias != nullptr);
      if (halves == 2) {
        wait_stores_read();
        meet(2 + group, 128);
        store_half(shared, maps, tile, c + 64, 1, first, second, scale, scale_2, args.bias != nullptr);
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
