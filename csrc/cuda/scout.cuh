// The warp that reads the masks: it walks ahead and tells the producer what to load, and the multiplying warps of their tiles.
// Of two thread blocks side by side, only the first one has it, for both.
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

// A tile's bias, or that of some of its slabs, in the lanes of a warp.
struct Bias {
  static constexpr int kSlabs = kPair > 1 ? 1 : 4, kEach = kSlabs * kSlab / 32;  // registers are few
  float value[kEach];

  // `column`: where slabs lie, in a lane for each; those wanted begin with `first`.
  __device__ __forceinline__ void fetch(const Arguments& args, int column, int first, float scale) {
    const auto* const bias = static_cast<const unsigned short*>(args.bias);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = __shfl_sync(~0u, column, first + i * 32 / kSlab) + i * 32 % kSlab + threadIdx.x % 32;
      value[i] = at < args.size_b ? to_float(bias[at]) * scale : 0.f;
    }
  }
  __device__ __forceinline__ void put(float* to, Barrier& heard, int rank) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) tell(to[i * 32 + threadIdx.x % 32], value[i], heard, rank);
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
  const int lane = threadIdx.x % 32;
  // What thread blocks have of a tile: `most` of its slabs, or what is left of them. `column`: where those lie, in four lanes for
  // each thread block.
  const auto slabs_at = [&](int rank, int slabs, int most) { return min(max(slabs - rank * most, 0), most); };
  const auto hand_out = [&](int line, int column, int slabs, int most, int within, int count, int soon, int term) {
    wait(shared.batch_empty[next.slot()], next.parity() ^ 1);
#pragma unroll
    for (int rank = 0; rank < kPair; ++rank) {
      Batch& batch = shared.batches[next.slot()];
      Barrier& heard = shared.batch_full[next.slot()];
      tell(batch.term[lane], term, heard, rank);
      if (lane / 4 == rank) tell(batch.column[lane % 4], column, heard, rank);
      if (speaks) {
        tell(batch.line, line, heard, rank);
        tell(batch.within, within, heard, rank);
        tell(batch.count, count, heard, rank);
        tell(batch.soon, soon, heard, rank);
        tell(batch.halves, slabs_at(rank, slabs, most) > 2 ? 2 : 1, heard, rank);
      }
      told(heard, sizeof(Batch), speaks, rank);
    }
    next.advance();
  };
  const auto announce = [&](int line, int column, int slabs, int most, const Work& work) {
    Bias bias;
    if (args.bias) bias.fetch(args, column, 0, bias_scale);
    wait(shared.tile_empty[slot.slot()], slot.parity() ^ 1);
    Tile& tile = shared.tiles[slot.slot()];
    Barrier& heard = shared.tile_full[slot.slot()];
    if (args.bias) bias.put(tile.bias, heard, 0);
#pragma unroll 1
    for (int slab = Bias::kSlabs; args.bias && slab < 4 * kPair; slab += Bias::kSlabs) {
      bias.fetch(args, column, slab, bias_scale);
      bias.put(tile.bias + slab % 4 * kSlab, heard, slab / 4);
    }
#pragma unroll
    for (int rank = 0; rank < kPair; ++rank) {
      if (lane / 4 == rank) tell(tile.column[lane % 4], column, heard, rank);
      if (speaks) {
        tell(tile.line, line, heard, rank);
        tell(tile.stretch, walker.stretch(), heard, rank);
        tell(tile.brief.bits, Brief::of(work.count, slabs_at(rank, slabs, most), work.peers, work.whole).bits, heard, rank);
      }
      told(heard, kToldOfTile + (args.bias ? sizeof tile.bias : 0), speaks, rank);
    }
    slot.advance();
  };
#pragma unroll 1
  while (walker.next(work)) {
    const Row& row = walker.row(work.row);
    const int place = row.place, panel = divide_small(place, args.rows_per_block);
    const int line = (row.line * args.rows_per_block + place - panel * args.rows_per_block) * kTileA;
    const int slabs = min(static_cast<int>(row.slabs) - kTileSlabs * work.tile, kTileSlabs), most = 2 * work.halves;
    const int before = panel < args.panels ? panel * args.panel + kTileSlabs * work.tile : slabs_of(args, row.line) - slabs;
    int at = divide_small(work.first, each), left = work.count, within = (work.first - at * each) * kStep;
    const int blocks = divide_small(row.steps, each);
    int term = term_of(args, row, at + lane, blocks);
    const int slab = lane % 4 < most ? lane / 4 * most + lane % 4 : slabs;
    const int column = column_of(args, row.line, before + slab, before + slabs);
    int count = min(left, 32 * each - within / kStep);
    hand_out(line, column, slabs, most, within, count, max(left - kNotice, 0), term);
    announce(line, column, slabs, most, work);
#pragma unroll 1
    while ((left -= count) > 0) {
      at += 32, count = min(left, 32 * each);
      hand_out(line, column, slabs, most, 0, count, left - kNotice, term_of(args, row, at + lane, blocks));
    }
  }
  work = {};
  hand_out(0, 0, 0, 0, 0, 0, 0, 0);
  announce(0, 0, 0, 0, work);
}

}  // namespace sparsedrop
