// The warp that reads the masks: it walks ahead and tells the producer what to load, and the multiplying warps of their tiles.
#pragma once

#include "registers.cuh"
#include "walker.cuh"

namespace sparsedrop {

constexpr int kNotice = 8;  // steps before the end of a tile that the next one is looked for

// How many slabs a line of blocks keeps.
__device__ __forceinline__ int slabs_of(const Arguments& args, int line) {
  return args.out.plan ? args.out.plan[args.out.count + line] * (args.out.block / kSlab) : divide_up(args.size_b, kSlab);
}

// Where a slab of a row of tiles lies in B; one that does not exist lies outside. `slabs`: how many exist.
__device__ __forceinline__ int column_of(const Arguments& args, int line, int slab, int slabs) {
  if (slab >= slabs) return divide_up(args.size_b, kTileB) * kTileB;
  if (!args.out.plan) return slab * kSlab;
  const int each = args.out.block / kSlab;
  const int block = args.out.plan[args.out.index + line * args.out.length + slab / each];
  return block * args.out.block + slab % each * kSlab;
}

// The next blocks of the sum, one for each lane; where none is left, one outside.
__device__ __forceinline__ int term_of(const Arguments& args, const Row& row, int block, int blocks) {
  if (block >= blocks) return (divide_up(args.terms, args.walk.block) + 1) * args.walk.block;
  if (args.walk.plan) block = args.walk.plan[args.walk.index + row.line * args.walk.length + block];
  return block * args.walk.block;
}

// A tile's bias, in the lanes of a warp.
struct Bias {
  static constexpr int kEach = kTileB / 32;
  float value[kEach];

  __device__ __forceinline__ void fetch(const Arguments& args, const int (&column)[4], float scale) {
    const auto* const bias = static_cast<const unsigned short*>(args.bias);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = column[i * 32 / kSlab] + i * 32 % kSlab + threadIdx.x % 32;
      value[i] = at < args.size_b ? to_float(bias[at]) * scale : 0.f;
    }
  }
  __device__ __forceinline__ void put(Tile& tile) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) tile.bias[i * 32 + threadIdx.x % 32] = value[i];
  }
};

__device__ void scout(Shared& shared, const Arguments& args) {
  const bool speaks = elect_one();
  const float bias_scale = args.bias && args.scale_2 ? *args.scale_2 : 1.f;
  const int each = args.walk.block / kStep;
  Ring<kTilesAhead> slot;
  Ring<kBatchesAhead> next;
  Walker walker(shared, args);
  Work work;
  const auto hand_out = [&](int line, const int (&column)[4], int halves, int within, int count, int soon, int term) {
    wait(shared.batch_empty[next.slot()], next.parity() ^ 1);
    Batch& batch = shared.batches[next.slot()];
    batch.term[threadIdx.x % 32] = term;
    if (speaks) {
      batch.line = line, batch.halves = halves, batch.within = within, batch.count = count, batch.soon = soon;
#pragma unroll
      for (int i = 0; i < 4; ++i) batch.column[i] = column[i];
    }
    arrive(shared.batch_full[next.slot()]);
    next.advance();
  };
  const auto announce = [&](int line, const int (&column)[4], Brief brief) {
    Bias bias;
    if (args.bias) bias.fetch(args, column, bias_scale);
    wait(shared.tile_empty[slot.slot()], slot.parity() ^ 1);
    Tile& tile = shared.tiles[slot.slot()];
    if (args.bias) bias.put(tile);
    if (speaks) {
      tile.line = line, tile.brief = brief, tile.stretch = walker.stretch();
#pragma unroll
      for (int i = 0; i < 4; ++i) tile.column[i] = column[i];
    }
    arrive(shared.tile_full[slot.slot()]);
    slot.advance();
  };
#pragma unroll 1
  while (walker.next(work)) {
    const Row& row = walker.row(work.row);
    const int place = row.place, panel = divide_small(place, args.rows_per_block);
    const int line = (row.line * args.rows_per_block + place - panel * args.rows_per_block) * kTileA;
    const int slabs = min(static_cast<int>(row.slabs) - 4 * work.tile, 4);
    const int before = panel < args.panels ? panel * args.panel + 4 * work.tile : slabs_of(args, row.line) - slabs;
    int at = divide_small(work.first, each), left = work.count, within = (work.first - at * each) * kStep;
    const int blocks = divide_small(row.steps, each), lane = threadIdx.x % 32;
    int term = term_of(args, row, at + lane, blocks), column[4];
    const int mine = column_of(args, row.line, before + lane, before + slabs);
#pragma unroll
    for (int i = 0; i < 4; ++i) column[i] = __shfl_sync(~0u, mine, i);
    int count = min(left, 32 * each - within / kStep);
    hand_out(line, column, work.halves, within, count, max(left - kNotice, 0), term);
    announce(line, column, Brief::of(work.count, slabs, work.peers, work.whole));
#pragma unroll 1
    while ((left -= count) > 0) {
      at += 32, count = min(left, 32 * each);
      hand_out(line, column, work.halves, 0, count, left - kNotice, term_of(args, row, at + lane, blocks));
    }
  }
  const int nowhere[4] = {};
  hand_out(0, nowhere, 0, 0, 0, 0, 0);
  announce(0, nowhere, Brief::of(0, 0, 0, false));
}

}  // namespace sparsedrop
