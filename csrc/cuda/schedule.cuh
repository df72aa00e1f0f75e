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

}  // namespace sparsedrop
