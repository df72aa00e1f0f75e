// Who computes what. All kept tiles lie in one order, row by row of tiles, rows with the longest sums first. Thread blocks
// first take whole tiles, side by side in that order, so that they share A and B in the cache. Where whole tiles would not
// come out even, the last one to two rounds are divided by cost: each thread block gets an equal stretch of that order, and
// a tile across a border is summed in parts. Counts are known on the device alone, so each thread block works this out itself.
#pragma once

#include "arguments.h"
#include "barriers.cuh"

namespace sparsedrop {

constexpr int kShortest = 4;           // steps: a part below that is not worth its traffic
constexpr int kPartCost = 18;          // what giving and taking a part costs, in steps
constexpr int kTileSteps = 1;          // what a tile costs besides its own steps
constexpr int kWhole = 5, kHalf = 3;   // cost of a step of a tile with both halves and with one

struct alignas(16) Row {
  int tiles, cost;  // before the row
  unsigned short steps, line;  // line: of blocks of the masks
  int slabs;
};

struct Schedule {
  Row rows[kMostRows + 1];  // the last one holds the sums
};

// What it is made from: for each line, what its masks keep.
struct Counts {
  unsigned short steps[kMostLines], slabs[kMostLines], order[kMostLines];
  int sums[2][32];
};

struct Place {
  int row, tile;   // in the schedule, in the row
  int start;       // cost before the tile
  int steps, step_cost;  // a row without terms sums zeros: one step outside the matrices
  __device__ __forceinline__ int end() const { return start + (steps + kTileSteps) * step_cost; }
  __device__ __forceinline__ int step_at(int cost) const { return min((cost - start) / step_cost, steps); }
  __device__ __forceinline__ int halves() const { return step_cost == kWhole ? 2 : 1; }
};

__device__ __forceinline__ int divide_up(int a, int b) { return (a + b - 1) / b; }

// a / b for what fits a float's 24 bits, in a fraction of the time.
__device__ __forceinline__ int divide_small(int a, int b) {
  const int guess = static_cast<int>(__fdividef(static_cast<float>(a), static_cast<float>(b)));
  return guess + ((guess + 1) * b <= a) - (guess * b > a);
}

__device__ __forceinline__ int row_cost(int halves, int steps) {
  return (halves / 2 * kWhole + halves % 2 * kHalf) * (max(steps, 1) + kTileSteps);
}

// Turns each thread's two sums into the sums before it. Those beyond the first warps are zero.
__device__ __forceinline__ void sums_before(int& x, int& y, int (*sums)[32], int used_warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int own_x = x, own_y = y;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int other_x = __shfl_up_sync(~0u, x, by), other_y = __shfl_up_sync(~0u, y, by);
    if (lane >= by) x += other_x, y += other_y;
  }
  if (lane == 31) sums[0][warp] = x, sums[1][warp] = y;
  __syncthreads();
  x -= own_x, y -= own_y;
#pragma unroll 1
  for (int i = 0; i < min(warp, used_warps); ++i) x += sums[0][i], y += sums[1][i];
}

template <int Threads>
__device__ __forceinline__ void make_schedule(Schedule& s, Counts& counts, const Arguments& args) {
  const Lists& longest = args.walk.plan ? args.walk : args.out;
  const int all_steps = divide_up(args.terms, kStep), all_slabs = divide_up(args.size_b, kSlab);
#pragma unroll 1
  for (int i = threadIdx.x; i < args.lines; i += Threads) {
    const int order = longest.plan ? longest.plan[longest.order + i] : i;
    const int steps = args.walk.plan ? args.walk.plan[args.walk.count + i] * (args.walk.block / kStep) : all_steps;
    const int slabs = args.out.plan ? args.out.plan[args.out.count + i] * (args.out.block / kSlab) : all_slabs;
    counts.order[i] = static_cast<unsigned short>(order);
    counts.steps[i] = static_cast<unsigned short>(steps);
    counts.slabs[i] = static_cast<unsigned short>(slabs);
  }
  __syncthreads();

  const int rows = args.rows * args.panels, each = divide_up(rows, Threads);
  const int first = min(static_cast<int>(threadIdx.x) * each, rows), last = min(first + each, rows);
  int tiles = 0, cost = 0;
#pragma unroll 1
  for (int row = first; row < last; ++row) {
    const int panel = divide_small(row, args.rows), rank = args.first_row + row - panel * args.rows;
    const int block = divide_small(rank, args.rows_per_block), line = counts.order[block];
    const int a = line * args.rows_per_block + rank - block * args.rows_per_block;
    const int slabs = a * kTileA < args.size_a ? min(max(counts.slabs[line] - panel * kPanel, 0), kPanel) : 0;
    const int steps = counts.steps[line], halves = divide_up(slabs, 2);
    s.rows[row] = {tiles, cost, static_cast<unsigned short>(steps), static_cast<unsigned short>(line), slabs};
    tiles += (halves + 1) / 2;
    cost += row_cost(halves, steps);
  }
  int tiles_before = tiles, cost_before = cost;
  sums_before(tiles_before, cost_before, counts.sums, divide_up(divide_up(rows, each), 32));
#pragma unroll 1
  for (int row = first; row < last; ++row) {
    s.rows[row].tiles += tiles_before;
    s.rows[row].cost += cost_before;
  }
  // The copy engine will overwrite the counts.
  publish_shared();
  if (threadIdx.x == Threads - 1) s.rows[rows] = {tiles_before + tiles, cost_before + cost, 0, 0, 0};
  __syncthreads();
}

// What one thread block does next.
struct Work {
  Row row;
  Place tile;
  int first, count;  // steps
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
    begin_ = cost;
    // Rounds run forth and back over tiles from long to short, which evens out all but a single one.
    const int uneven = rounds > 1 ? (longest - mean) / 4 : longest - mean;
    if (rounds * mean + uneven <= static_cast<int>(__fdividef(static_cast<float>(cost), static_cast<float>(blocks))) + kPartCost * kWhole) return;
    whole_ = max(divide_small(tiles, blocks) - 1, 0) * blocks;
    begin_ = whole_ == 0 ? 0 : tile_at(whole_).start;
    const int divided = cost - begin_;
    sharers_ = min(blocks, divided / (2 * kShortest * kWhole));
    sharers_ = max(sharers_, 1);
    share_ = divided / sharers_, rest_ = divided % sharers_;
    if (static_cast<int>(blockIdx.x) >= sharers_ || divided == 0) return;
    at_ = border(blockIdx.x), end_ = border(blockIdx.x + 1);
    if (at_ == end_) return;
    // Its first tile may have begun elsewhere: that one comes last, when those who began it are done with it.
    tail_ = cost_at(at_);
    if (at_ > tail_.start) {
      tail_first_ = tail_.step_at(at_);
      at_ = min(end_, tail_.end());
      tail_last_ = tail_.step_at(at_);
    }
  }

  __device__ __forceinline__ bool next(Work& work) {
    const int blocks = gridDim.x, block = blockIdx.x, tile = round_ * blocks + (round_ % 2 ? blocks - 1 - block : block);
    if (round_ * blocks < whole_) {
      ++round_;
      if (tile < whole_) {
        const Place place = tile_at(tile);
        work = {row(place.row), place, 0, place.steps, 0, true};
        return true;
      }
    }
    if (at_ < end_) {
      const Place place = cost_at(at_);
      const int last = place.step_at(min(end_, place.end()));
      work = {row(place.row), place, 0, last, 0, last == place.steps};
      at_ = place.end();
      return true;
    }
    if (tail_last_ > tail_first_) {
      work = {row(tail_.row), tail_, tail_first_, tail_last_ - tail_first_, 0, tail_last_ == tail_.steps};
      if (work.whole) {
        work.peers = 1;
        while (border(block - work.peers) > tail_.start) ++work.peers;
      }
      tail_last_ = 0;
      return true;
    }
    return false;
  }

 private:
  __device__ __forceinline__ const Row& row(int at) const { return schedule_.rows[at]; }

  __device__ __forceinline__ Place place_in(int at, int tile) const {
    const int steps = max(static_cast<int>(row(at).steps), 1);
    return {at, tile, row(at).cost + kWhole * tile * (steps + kTileSteps), steps,
            4 * tile + 2 < row(at).slabs ? kWhole : kHalf};
  }

  // Not inlined: a short way to the first step counts more than calls do.
  __device__ __noinline__ Place tile_at(int tile) const {
    const int at = row_at(&Row::tiles, tile);
    return place_in(at, tile - row(at).tiles);
  }

  __device__ __noinline__ Place cost_at(int cost) const {
    const int at = row_at(&Row::cost, cost);
    return place_in(at, (cost - row(at).cost) / (kWhole * (max(static_cast<int>(row(at).steps), 1) + kTileSteps)));
  }

  // The last row that begins at or before `at`.
  __device__ __forceinline__ int row_at(int Row::*begin, int at) const {
    const int lane = threadIdx.x % 32;
    const unsigned coarse = __ballot_sync(~0u, lane * 32 < rows_ && row(min(lane * 32, rows_)).*begin <= at);
    const int base = (__popc(coarse) - 1) * 32, mine = base + lane;
    return base + __popc(__ballot_sync(~0u, mine < rows_ && row(min(mine, rows_)).*begin <= at)) - 1;
  }

  // Where the share of a thread block begins; one that lies close to a tile's edge moves onto it.
  __device__ __noinline__ int border(int block) const {
    if (block >= sharers_) return row(rows_).cost;
    const int cost = begin_ + share_ * block + min(block, rest_);
    const Place tile = cost_at(cost);
    const int step = tile.step_at(cost);
    if (step < kShortest) return tile.start;
    return tile.steps - step < kShortest ? tile.end() : tile.start + step * tile.step_cost;
  }

  const Schedule& schedule_;
  int rows_;
  int whole_, round_ = 0;                            // tiles taken whole
  int begin_, sharers_ = 1, share_ = 0, rest_ = 0;               // the stretch that is divided
  int at_ = 0, end_ = 0;                             // this thread block's share of it
  Place tail_{};
  int tail_first_ = 0, tail_last_ = 0;
};

}  // namespace sparsedrop
