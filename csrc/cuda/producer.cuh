// The warps that walk the masks: one feeds shared memory, one writes the zeros.
#pragma once

#include "shared.cuh"

namespace sparsedrop {

// Where a slab of a row of tiles lies in B; one that does not exist lies outside. `slabs`: how many exist.
__device__ __forceinline__ int column_of(const Arguments& args, int line, int slab, int slabs) {
  if (slab >= slabs) return divide_up(args.size_b, kTileB) * kTileB;
  if (!args.out.plan) return slab * kSlab;
  const int each = args.out.block / kSlab;
  const int block = args.out.plan[args.out.index + line * args.out.length + slab / each];
  return block * args.out.block + slab % each * kSlab;
}

__device__ __forceinline__ void load_step(const Maps& maps, char* stage, Barrier& full, const int (&column)[4],
                                          int halves, int line, int t) {
  arrive_and_expect(full, kABytes + halves * kHalfBytes);
  if constexpr (kALinesFirst) {
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

// Kept blocks of t, 32 at a time, one in each lane; where none is left, one outside.
__device__ __forceinline__ int fetch_blocks(const Arguments& args, int line, int chunk, int kept) {
  const int at = chunk * 32 + threadIdx.x % 32;
  if (at >= kept) return divide_up(args.terms, args.walk.block) + 1;
  return args.walk.plan[args.walk.index + line * args.walk.length + at];
}

__device__ void produce(Shared& shared, const Arguments& args, const Maps& maps) {
  const int lane = threadIdx.x % 32;
  const bool walks = args.walk.plan;
  const int each = walks ? args.walk.block / kStep : 1;
  Ring<kStages> stage;
  Ring<kTilesAhead> slot;
  Walker walker(shared.schedule, args.rows * args.panels);
  Work work;
  while (walker.next(work)) {
    const int row = work.tile.row, line = work.row.line, panel = row / args.rows;
    const int rank = args.first_row + row - panel * args.rows, first_slab = 4 * work.tile.tile;
    const int a = (line * args.rows_per_block + rank % args.rows_per_block) * kTileA;
    const int slabs = min(work.row.slabs - first_slab, 4), kept = work.row.steps / each;
    int chunk = work.first / each / 32, blocks = walks ? fetch_blocks(args, line, chunk, kept) : 0;
    const int mine = column_of(args, line, panel * kPanel + first_slab + lane, panel * kPanel + first_slab + slabs);
    int column[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) column[i] = __shfl_sync(~0u, mine, i);
    wait(shared.tile_empty[slot.slot], slot.parity ^ 1);
    if (lane == 0) {
      Tile& tile = shared.tiles[slot.slot];
      tile.line = a;
#pragma unroll
      for (int i = 0; i < 4; ++i) tile.column[i] = column[i];
      tile.slabs = slabs;
      tile.steps = work.count;
      tile.peers = work.peers;
      tile.whole = work.whole;
      arrive(shared.tile_full[slot.slot]);
    }
    slot.advance();

    for (int step = work.first; step < work.first + work.count; ++step) {
      int t = step * kStep;
      if (walks) {
        const int at = step / each;
        if (at / 32 != chunk) blocks = fetch_blocks(args, line, chunk = at / 32, kept);
        t = __shfl_sync(~0u, blocks, at % 32) * args.walk.block + step % each * kStep;
      }
      wait(shared.empty[stage.slot], stage.parity ^ 1);
      if (lane == 0) load_step(maps, shared.stages[stage.slot], shared.full[stage.slot], column, work.tile.halves(), a, t);
      stage.advance();
    }
    __syncwarp();
  }
  wait(shared.tile_empty[slot.slot], slot.parity ^ 1);
  if (lane == 0) {
    shared.tiles[slot.slot].steps = 0;  // the end
    arrive(shared.tile_full[slot.slot]);
  }
}

// +0 into what the mask over C drops.
__device__ void write_zeros(Shared& shared, const Arguments& args, const Maps& maps) {
  const int lane = threadIdx.x % 32, length = args.out.length, tall = args.rows_per_block * kTileA;
  const int lines = divide_up(args.rows, args.rows_per_block);
  for (int i = blockIdx.x * 32 + lane; i < lines * length; i += gridDim.x * 32) {
    const int line = shared.schedule.rows[i / length * args.rows_per_block].line, at = i % length;
    if (at < args.out.plan[args.out.count + line]) continue;
    const int column = args.out.plan[args.out.index + line * length + at] * args.out.block;
    for (int a = line * tall; a < min((line + 1) * tall, args.size_a); a += kZeroRows)
      for (int b = column; b < min(column + args.out.block, args.size_b); b += kSlab)
        store_box(maps.zeros, b, a, shared.zeros);
  }
  commit_stores();
  wait_stores_read();
}

}  // namespace sparsedrop
