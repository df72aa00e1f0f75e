// What the warps of a thread block share, and which kernel this is among those compiled from these sources.
#pragma once

#include "arguments.h"
#include "ring.cuh"
#include "schedule.cuh"
#include "tma.cuh"

namespace sparsedrop {

constexpr bool kALinesFirst = SPARSEDROP_A_LINES_FIRST;
constexpr bool kBLinesFirst = SPARSEDROP_B_LINES_FIRST;
constexpr bool kTransposed = SPARSEDROP_TRANSPOSED;  // C lies in memory as (b, a)
constexpr int kPiece = SPARSEDROP_PIECE;             // lines of B that one box brings, where the terms run along memory

constexpr int kMathThreads = 256;
constexpr int kStages = 4;
constexpr int kTilesAhead = 2;
constexpr int kSlabBytes = kSlab * kSlab * 2;
constexpr int kABytes = kTileA * kStep * 2;
constexpr int kHalfBytes = kTileB / 2 * kStep * 2;
constexpr int kStageBytes = kABytes + 2 * kHalfBytes;

// What the multiplying warps need to know of a tile.
struct Tile {
  int line;      // of A
  int column[4]; // of B, for each slab
  int slabs;
  int steps;
  int peers;   // thread blocks that hold parts of the sum
  int stores;  // slabs to be stored; none where another thread block completes the tile
  alignas(16) unsigned short bias[kTileB];
};

struct Shared {
  char stages[kStages][kStageBytes];
  char staging[2][kSlabBytes];  // of each four multiplying warps
  char zeros[kZeroRows * 128];
  Schedule schedule;
  Tile tiles[kTilesAhead];
  Barrier full[kStages], empty[kStages];
  Barrier tile_full[kTilesAhead], tile_empty[kTilesAhead];
  Barrier given;  // the part of a sum, or the news that there is none
  bool gives;
  float scale, bias_scale;
};
static_assert(sizeof(Shared) <= 232448, "more shared memory than there is");
static_assert(sizeof(Counts) <= kStages * kStageBytes, "no room for the counts");

struct Maps {
  TensorMap a, b, c, zeros;
};

}  // namespace sparsedrop
