// A thread block's way through the schedule.
#pragma once

#include "schedule.cuh"

namespace sparsedrop {

// A step of a tile, both counted in the order of the schedule.
struct Spot {
  int tile, step;
  __device__ __forceinline__ bool before(const Spot& other) const {
    return tile < other.tile || (tile == other.tile && step < other.step);
  }
};

// What one thread block does next.
struct Work {
  int row, tile;     // in the schedule, in the row
  int halves;        // of the tile
  int first, count;  // steps; a row without terms sums zeros: one step outside the matrices
  int peers;         // thread blocks just before this one that summed the tile's beginning
  bool whole;        // whether the tile's end is here
};

// One warp walks together.
class Walker {
 public:
  __device__ __forceinline__ Walker(const Schedule& s, int rows) : schedule_(s), rows_(rows) {
    const int blocks = gridDim.x, tiles = s.rows[rows].tiles, cost = s.rows[rows].cost;
    const int rounds = divide_small(tiles + blocks - 1, blocks), longest = kWhole * (s.rows[0].steps + kTileSteps);
    const int mean = static_cast<int>(__fdividef(static_cast<float>(cost), static_cast<float>(max(tiles, 1))));
    whole_ = tiles;
    // Rounds run forth and back over tiles from long to short, which evens out all but a single one.
    const int uneven = rounds > 1 ? (longest - mean) / 4 : longest - mean;
    const int even = static_cast<int>(__fdividef(static_cast<float>(cost), static_cast<float>(blocks)));
    if (rounds * mean + uneven <= even + kPartCost * kWhole) return;
    whole_ = max(divide_small(tiles, blocks) - 1, 0) * blocks;
    int begin = 0;
    if (whole_ > 0) {
      const int row = row_at(s, rows, &Row::tiles, whole_);
      begin = start_of(row, whole_ - s.rows[row].tiles);
    }
    const int divided = cost - begin, sharers = max(min(blocks, divided / (2 * kShortest * kWhole)), 1);
    const int share = divided / sharers, rest = divided - share * sharers;
    const auto border = [=](int block) { return block >= sharers ? cost : begin + share * block + min(block, rest); };
    const int block = blockIdx.x;
    if (block >= sharers || divided == 0) return;
    at_ = spot_at(s, rows, border(block)), end_ = spot_at(s, rows, border(block + 1));
    if (at_.step == 0) return;
    // Its first tile began elsewhere: that one comes last, when those who began it are done with it.
    tail_ = at_;
    at_ = {tail_.tile + 1, 0};
    tail_end_ = end_.step;
    if (tail_.tile == end_.tile) return;
    tail_end_ = kLongest;
    const int row = row_at(s, rows, &Row::tiles, tail_.tile), tile = tail_.tile - s.rows[row].tiles;
    const int inside = start_of(row, tile) + kShortest * step_cost(halves_of(s.rows[row], tile));
    do ++peers_;
    while (border(block - peers_) >= inside);
  }

  __device__ __forceinline__ bool next(Work& work) {
    const int blocks = gridDim.x, block = blockIdx.x;
    Spot from = {round_ * blocks + (round_ % 2 ? blocks - 1 - block : block), 0};
    int last = kLongest;
    if (round_ * blocks < whole_ && (++round_, from.tile < whole_)) {
      // A whole tile; the last round may have none for this thread block.
    } else if (at_.before(end_)) {
      from = at_;
      if (from.tile == end_.tile) last = end_.step;
      at_ = {from.tile + 1, 0};
    } else if (tail_end_ > tail_.step) {
      from = tail_, last = tail_end_;
      tail_end_ = 0;
    } else {
      return false;
    }
    const int at = row_at(schedule_, rows_, &Row::tiles, from.tile), tile = from.tile - schedule_.rows[at].tiles;
    const int steps = steps_of(schedule_.rows[at]);
    last = min(last, steps);
    const int halves = halves_of(schedule_.rows[at], tile);
    work = {at, tile, halves, from.step, last - from.step, from.step > 0 ? peers_ : 0, last == steps};
    return true;
  }

  __device__ __forceinline__ const Row& row(int at) const { return schedule_.rows[at]; }

 private:
  __device__ __forceinline__ static int steps_of(const Row& row) { return max(static_cast<int>(row.steps), 1); }
  __device__ __forceinline__ static int halves_of(const Row& row, int tile) { return 4 * tile + 2 < row.slabs ? 2 : 1; }
  __device__ __forceinline__ static int step_cost(int halves) { return halves == 2 ? kWhole : kHalf; }

  __device__ __forceinline__ int start_of(int row, int tile) const {
    return schedule_.rows[row].cost + tile * kWhole * (steps_of(schedule_.rows[row]) + kTileSteps);
  }

  // The last row that begins at or before `at`.
  __device__ __forceinline__ static int row_at(const Schedule& s, int rows, int Row::*begin, int at) {
    const int lane = threadIdx.x % 32;
    const unsigned coarse = __ballot_sync(~0u, lane * 32 < rows && s.rows[min(lane * 32, rows)].*begin <= at);
    const int base = (__popc(coarse) - 1) * 32, mine = base + lane;
    return base + __popc(__ballot_sync(~0u, mine < rows && s.rows[min(mine, rows)].*begin <= at)) - 1;
  }

  // Not inlined: a short way to the first step counts more than calls do. What lies close to a tile's edge moves onto it.
  __device__ __noinline__ static Spot spot_at(const Schedule& s, int rows, int cost) {
    if (cost >= s.rows[rows].cost) return {s.rows[rows].tiles, 0};
    const int at = row_at(s, rows, &Row::cost, cost);
    const Row& row = s.rows[at];
    const int steps = steps_of(row), whole = kWhole * (steps + kTileSteps), tile = (cost - row.cost) / whole;
    const int step = (cost - row.cost - tile * whole) / step_cost(halves_of(row, tile));
    if (step < kShortest) return {row.tiles + tile, 0};
    return steps - step < kShortest ? Spot{row.tiles + tile + 1, 0} : Spot{row.tiles + tile, step};
  }

  const Schedule& schedule_;
  int rows_;
  int whole_, round_ = 0;                          // tiles taken whole
  Spot at_ = {0, 0}, end_ = {0, 0};                // this thread block's share of those that are divided
  Spot tail_ = {0, 0};                             // what of it comes last
  int tail_end_ = 0, peers_ = 0;
};

}  // namespace sparsedrop
