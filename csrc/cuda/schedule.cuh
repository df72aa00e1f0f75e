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
constexpr int kWhole = 5, kHalf = 4;   // cost of a step of a tile with both halves and with one, which waits for its data

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
    if (rounds * mean + uneven <= static_cast<int>(__fdividef(static_cast<float>(cost), static_cast<float>(blocks))) + kPartCost * kWhole) return;
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
    work = {at, tile, halves_of(schedule_.rows[at], tile), from.step, last - from.step, from.step > 0 ? peers_ : 0, last == steps};
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
