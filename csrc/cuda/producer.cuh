// The warps that walk the masks: one feeds shared memory, one writes the zeros.
#pragma once

#include "shared.cuh"
#include "walker.cuh"

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

// A tile to feed: where it lies, and the blocks of t that come next, 32 at a time, one in each lane.
struct Task {
  Work work;
  int a, slabs, column[4];
  int at, blocks;

  __device__ __forceinline__ bool take(Walker& walker, const Arguments& args) {
    if (!walker.next(work)) return false;
    const Row& row = walker.row(work.row);
    const int panel = divide_small(work.row, args.rows), rank = args.first_row + work.row - panel * args.rows;
    const int before = panel * kPanel + 4 * work.tile;
    a = (row.line * args.rows_per_block + (rank - divide_small(rank, args.rows_per_block) * args.rows_per_block)) * kTileA;
    slabs = min(row.slabs - 4 * work.tile, 4);
    at = work.first / (args.walk.block / kStep);
    fetch_blocks(row, args);
    const int mine = column_of(args, row.line, before + threadIdx.x % 32, before + slabs);
#pragma unroll
    for (int i = 0; i < 4; ++i) column[i] = __shfl_sync(~0u, mine, i);
    return true;
  }

  // Where no block is left, one outside.
  __device__ __forceinline__ void fetch_blocks(const Row& row, const Arguments& args) {
    const int mine = at / 32 * 32 + threadIdx.x % 32;
    if (mine >= row.steps / (args.walk.block / kStep))
      blocks = divide_up(args.terms, args.walk.block) + 1;
    else
      blocks = args.walk.plan ? args.walk.plan[args.walk.index + row.line * args.walk.length + mine] : mine;
  }

  __device__ __forceinline__ int first_term(const Arguments& args) const {
    return __shfl_sync(~0u, blocks, at % 32) * args.walk.block;
  }

  __device__ __forceinline__ int next_block(const Walker& walker, const Arguments& args) {
    if (++at % 32 == 0) fetch_blocks(walker.row(work.row), args);
    return first_term(args);
  }
};

// A tile's bias, by one warp.
__device__ __forceinline__ void fetch_bias(Tile& tile, const Arguments& args) {
  const auto* const bias = static_cast<const unsigned short*>(args.bias);
  __syncwarp();
#pragma unroll
  for (int i = threadIdx.x % 32; i < kTileB; i += 32) {
    const int at = tile.column[i / kSlab] + i % kSlab;
    tile.bias[i] = at < args.size_b ? bias[at] : 0;
  }
  __syncwarp();
}

// Tells the multiplying warps of a tile.
__device__ __forceinline__ void announce(Shared& shared, const Arguments& args, const Task& task, Ring<kTilesAhead>& slot,
                                         bool speaks) {
  Tile& tile = shared.tiles[slot.slot()];
  wait(shared.tile_empty[slot.slot()], slot.parity() ^ 1);
  if (speaks) {
    tile.line = task.a;
#pragma unroll
    for (int i = 0; i < 4; ++i) tile.column[i] = task.column[i];
    tile.slabs = task.slabs;
    tile.steps = task.work.count;
    tile.peers = task.work.peers;
    tile.stores = task.work.whole ? task.slabs : 0;
  }
  if (args.bias) fetch_bias(tile, args);
  if (speaks) arrive(shared.tile_full[slot.slot()]);
  slot.advance();
}

__device__ void produce(Shared& shared, const Arguments& args, const Maps& maps) {
  const bool speaks = elect_one();
  Ring<kStages> stage;
  Ring<kTilesAhead> slot;
  Walker walker(shared.schedule, args.rows * args.panels);
  Task task, next;
  bool more = next.take(walker, args);
  while (more) {
    task = next;
    const int end = args.walk.block;
    int within = task.work.first * kStep % end, t = task.first_term(args);
    // The next tile is looked up while this one's loads are on their way.
    const int look = min(kStages, task.work.count) - 1;
#pragma unroll 1
    for (int step = 0; step < task.work.count; ++step) {
      wait(shared.empty[stage.slot()], stage.parity() ^ 1);
      if (speaks)
        load_step(maps, shared.stages[stage.slot()], shared.full[stage.slot()], task.column, task.work.halves, task.a, t + within);
      stage.advance();
      within += kStep;
      if (within == end) within = 0, t = task.next_block(walker, args);
      if (step == 0) announce(shared, args, task, slot, speaks);
      if (step == look) more = next.take(walker, args);
    }
    __syncwarp();
  }
  wait(shared.tile_empty[slot.slot()], slot.parity() ^ 1);
  if (speaks) {
    shared.tiles[slot.slot()].steps = 0;  // the end
    arrive(shared.tile_full[slot.slot()]);
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
