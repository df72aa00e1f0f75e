// What the warps of a thread block share.
#pragma once

#include "ring.cuh"
#include "schedule.cuh"
#include "tma.cuh"

namespace sparsedrop {

constexpr int kMathThreads = 256;
constexpr int kStages = 4;
constexpr int kTilesAhead = 2;
constexpr int kBatchesAhead = 2;
constexpr int kSlabBytes = kSlab * kSlab * 2;
constexpr int kABytes = kTileA * kStep * 2;
constexpr int kHalfBytes = kTileB / 2 * kStep * 2;
constexpr int kStageBytes = kABytes + 2 * kHalfBytes;

// A tile in one register. No steps: there are no more tiles.
struct Brief {
  u32 bits;
  __device__ __forceinline__ static Brief of(int steps, int slabs, int peers, bool whole) {
    return {static_cast<u32>(steps | slabs << 16 | peers << 20) | static_cast<u32>(whole) << 31};
  }
  __device__ __forceinline__ int steps() const { return static_cast<int>(bits & 0xFFFF); }
  __device__ __forceinline__ int slabs() const { return static_cast<int>(bits >> 16 & 0xF); }
  __device__ __forceinline__ int peers() const { return static_cast<int>(bits >> 20 & 0x7FF); }  // who hold parts of the sum
  __device__ __forceinline__ bool whole() const { return bits >> 31; }  // or else another thread block completes the tile
  __device__ __forceinline__ int stores() const { return whole() ? slabs() : 0; }
};

// What the multiplying warps need to know of a tile.
struct Tile {
  int line;       // of A
  int column[4];  // of B, for each slab
  Brief brief;
  int stretch;    // where it is divided
  alignas(16) float bias[kTileB];  // scaled
};
constexpr int kToldOfTile = 7 * sizeof(int);  // besides the bias

// A step of a tile, both counted in the order of the schedule.
struct Spot {
  int tile, step;
  __device__ __forceinline__ bool before(const Spot& other) const {
    return tile < other.tile || (tile == other.tile && step < other.step);
  }
};

// How the tiles are shared out.
struct Plan {
  int dealt;      // whole ones, before the stretches
  int asked_for;  // of them, behind the first ones; numbers above are of stretches
  int longest;    // cost of one
  bool divided;   // whether there are stretches
  bool asks;      // whether there are numbers
  bool patient;   // whether those are asked for late
  bool in_step;   // whether all tiles count the same
};

// What of a stretch is left.
struct Stretch {
  Spot at, end;
  Spot tail;            // what comes last, up to
  int tail_end, peers;  // and who else has sums of it
};

// Steps to load: of one tile, up to 32 blocks of the sum. No steps: there are no more.
struct Batch {
  int line, column[4];  // as above
  int halves;           // of the tile
  int within;           // where in its first block it begins
  int count;
  int soon;             // the step that is the producer's time to say so
  int term[32];         // where blocks begin
};

struct Shared {
  char stages[kStages][kStageBytes];
  char staging[2][kSlabBytes];  // of each four multiplying warps
  char zeros[kZeroRows * 128];
  Schedule schedule;
  Plan plan;
  Stretch stretch;
  Tile tiles[kTilesAhead];
  Batch batches[kBatchesAhead];
  Barrier full[kStages], empty[kStages];
  Barrier tile_full[kTilesAhead], tile_empty[kTilesAhead];
  Barrier batch_full[kBatchesAhead], batch_empty[kBatchesAhead];
  Barrier soon;   // a tile is about to end
  Barrier given;  // the part of a sum, or the news that there is none
  int gives;      // the stretch that it is of, or less than none
};
static_assert(sizeof(Shared) <= 232448, "more shared memory than there is");
static_assert(sizeof(Counts) <= kStages * kStageBytes, "no room for the counts");

struct Maps {
  TensorMap a, b, c, zeros;
};

}  // namespace sparsedrop
