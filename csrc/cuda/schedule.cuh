// The tiles to compute. All kept ones lie in one order, rows of tiles with the longest sums first, some rows side by side, a
// panel of each, and behind them the half tiles that rows end with. Counts are known on the device alone, so each thread block
// works this out itself.
#pragma once

#include "pair.cuh"

namespace sparsedrop {

constexpr int kShortest = 4;           // steps: a part below that is not worth its traffic
constexpr int kPartCost = 18;          // what giving and taking a part costs, in steps
constexpr int kTileSteps = 1;          // what a tile costs besides its own steps
constexpr int kLongSum = 10;           // steps
constexpr int kCached = 24 << 20;      // elements of B that the cache holds all
// Cost of a step of a tile with both halves and with one, which waits for its data; less where half of A comes from elsewhere.
constexpr int kWhole = 5, kHalf = kPair > 1 ? 3 : 4;
constexpr int kLeastShare = 2 * kShortest * kWhole;  // so that each stretch has steps of its own

// A panel of a row of tiles, or the half tile that it ends with.
struct Row {
  int cost;                   // of all before
  unsigned short tiles;       // likewise
  unsigned short steps;
  unsigned line : 13;         // of blocks of the masks
  unsigned slabs : 7, place : 11;  // place: panel · rows_per_block + row in the block; a half tile's is behind all panels
};
static_assert(kMostTiles < 1 << 16 && kMostLines <= 1 << 13 && kWidestPanel < 1 << 7 && kMostRows < 1 << 11);

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

__device__ __forceinline__ int step_cost(int halves) { return halves == 2 ? kWhole : kHalf; }
__device__ __forceinline__ int steps_of(const Row& row) { return max(static_cast<int>(row.steps), 1); }
__device__ __forceinline__ int halves_of(const Row& row, int tile) { return kTileSlabs * tile + kTileSlabs / 2 < static_cast<int>(row.slabs) ? 2 : 1; }
__device__ __forceinline__ int tile_cost(int halves, int steps) { return step_cost(halves) * (max(steps, 1) + kTileSteps); }

// The panel of a row of the table, behind all if it is a half tile, and the row of tiles, longest first, among those of the
// launch.
struct Place {
  int panel, rank;
};
__device__ __forceinline__ Place place_of(const Arguments& args, int row) {
  const int halves = args.rows * args.panels;
  if (row >= halves) return {args.panels, row - halves};
  const int first = divide_small(row, args.together * args.panels) * args.together, rest = row - first * args.panels;
  const int together = max(min(args.together, args.rows - first), 1), panel = divide_small(rest, together);
  return {panel, first + rest - panel * together};
}
// The other way, for the first panel.
__device__ __forceinline__ int row_of(const Arguments& args, int rank) {
  const int first = divide_small(rank, args.together) * args.together;
  return first * args.panels + rank - first;
}

// Turns each thread's two sums into the sums before it.
__device__ __forceinline__ void sums_before(int& x, int& y, int (*sums)[32]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int own_x = x, own_y = y;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int other_x = __shfl_up_sync(~0u, x, by), other_y = __shfl_up_sync(~0u, y, by);
    if (lane >= by) x += other_x, y += other_y;
  }
  if (lane == 31) sums[0][warp] = x, sums[1][warp] = y;
  __syncthreads();
  x += __reduce_add_sync(~0u, lane < warp ? sums[0][lane] : 0) - own_x;
  y += __reduce_add_sync(~0u, lane < warp ? sums[1][lane] : 0) - own_y;
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
  const int rows = args.rows * args.sections, each = divide_up(rows, Threads);
  const int first = min(static_cast<int>(threadIdx.x) * each, rows), last = min(first + each, rows);
  Place at = place_of(args, first);
  __syncthreads();

  int tiles = 0, cost = 0;
#pragma unroll 1
  for (int row = first; row < last; at = place_of(args, ++row)) {
    const int rank = args.first_row + at.rank, block = divide_small(rank, args.rows_per_block), line = counts.order[block];
    const int inner = rank - block * args.rows_per_block, a = line * args.rows_per_block + inner;
    const int all = a * kTileA < args.size_a ? counts.slabs[line] : 0, whole = (all + kTileSlabs / 2 - 1) / kTileSlabs * kTileSlabs;
    const bool half = at.panel == args.panels;
    const int slabs = half ? max(all - whole, 0) : min(max(min(whole, all) - at.panel * args.panel, 0), args.panel);
    const int steps = counts.steps[line];
    s.rows[row] = {cost, static_cast<unsigned short>(tiles), static_cast<unsigned short>(steps), static_cast<unsigned>(line),
                   static_cast<unsigned>(slabs), static_cast<unsigned>(at.panel * args.rows_per_block + inner)};
    const int here = divide_up(slabs, kTileSlabs);
    tiles += here;
    cost += half ? here * tile_cost(1, steps) : here * tile_cost(2, steps);
  }
  int tiles_before = tiles, cost_before = cost;
  sums_before(tiles_before, cost_before, counts.sums);
#pragma unroll 1
  for (int row = first; row < last; ++row) {
    s.rows[row].tiles += static_cast<unsigned short>(tiles_before);
    s.rows[row].cost += cost_before;
  }
  // The copy engine will overwrite the counts.
  publish_shared();
  if (threadIdx.x == Threads - 1) s.rows[rows] = {cost_before + cost, static_cast<unsigned short>(tiles_before + tiles), 0, 0, 0, 0};
  __syncthreads();
}

}  // namespace sparsedrop
