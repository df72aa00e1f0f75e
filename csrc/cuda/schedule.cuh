// The tiles to compute. All kept ones lie in one order, rows of tiles with the longest sums first, some rows side by side, a
// panel of each, and behind them the half tiles that rows end with. Counts are known on the device alone, so each thread block
// works this out itself: the warps that multiply do, before there is anything to multiply.
#pragma once

#include "arguments.h"
#include "barriers.cuh"

namespace sparsedrop {

constexpr int kScheduleThreads = 256;  // make it
constexpr int kShortest = 4;           // steps: a part below that is not worth its traffic
constexpr int kPartCost = 18;          // what giving and taking a part costs, in steps
constexpr int kTileSteps = 1;          // what a tile costs besides its own steps
constexpr int kLongSum = 10;           // steps
constexpr int kCached = 24 << 20;      // elements of B that the cache holds all
constexpr int kWhole = 5, kHalf = 4;   // cost of a step of a tile with both halves and with one, which waits for its data
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
  __device__ __forceinline__ void put(int line, int of_order, int of_steps, int of_slabs) {
    order[line] = static_cast<unsigned short>(of_order);
    steps[line] = static_cast<unsigned short>(of_steps);
    slabs[line] = static_cast<unsigned short>(of_slabs);
  }
};

__device__ __forceinline__ int divide_up(int a, int b) { return (a + b - 1) / b; }

// a / b for what fits a float's 24 bits, in a fraction of the time.
__device__ __forceinline__ int divide_small(int a, int b) {
  const int guess = static_cast<int>(__fdividef(static_cast<float>(a), static_cast<float>(b)));
  return guess + ((guess + 1) * b <= a) - (guess * b > a);
}

__device__ __forceinline__ int step_cost(int halves) { return halves == 2 ? kWhole : kHalf; }
__device__ __forceinline__ int steps_of(const Row& row) { return max(static_cast<int>(row.steps), 1); }
__device__ __forceinline__ int halves_of(const Row& row, int tile) { return 4 * tile + 2 < static_cast<int>(row.slabs) ? 2 : 1; }
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

// How many slabs a line of blocks keeps.
__device__ __forceinline__ int slabs_of_line(const Arguments& args, int line) {
  return args.out.plan ? args.out.plan[args.out.count + line] * (args.out.block / kSlab) : divide_up(args.size_b, kSlab);
}
// Which line comes at a place in the order, longest first.
__device__ __forceinline__ int line_at(const Arguments& args, int place) {
  const Lists& longest = args.walk.plan ? args.walk : args.out;
  return longest.plan ? longest.plan[longest.order + place] : place;
}

// What the masks keep of a line, and which line comes at that place in the order.
struct Line {
  int order, steps, slabs;
  __device__ __forceinline__ static Line read(const Arguments& args, int line) {
    const Lists& walk = args.walk;
    const int steps = walk.plan ? walk.plan[walk.count + line] * (walk.block / kStep) : divide_up(args.terms, kStep);
    return {line_at(args, line), steps, slabs_of_line(args, line)};
  }
};

// A row of tiles within its line of blocks.
struct Inner {
  int place, row;
  __device__ __forceinline__ static Inner of(const Arguments& args, const Place& at) {
    const int rank = args.first_row + at.rank, place = divide_small(rank, args.rows_per_block);
    return {place, rank - place * args.rows_per_block};
  }
};

// What one is, but for the sums of those before.
__device__ __forceinline__ Row row_of(const Arguments& args, const Place& at, int inner, int line, int steps, int kept) {
  const int all = (line * args.rows_per_block + inner) * kTileA < args.size_a ? kept : 0, whole = (all + 1) / 4 * 4;
  const int slabs =
      at.panel == args.panels ? max(all - whole, 0) : min(max(min(whole, all) - at.panel * args.panel, 0), args.panel);
  return {0, 0, static_cast<unsigned short>(steps), static_cast<unsigned>(line), static_cast<unsigned>(slabs),
          static_cast<unsigned>(at.panel * args.rows_per_block + inner)};
}
__device__ __forceinline__ int tiles_of(const Row& row) { return divide_up(static_cast<int>(row.slabs), 4); }

// A thread among those that make the schedule, the last ones of the thread block.
__device__ __forceinline__ int scheduler() { return static_cast<int>(threadIdx.x) - (kThreads - kScheduleThreads); }

// Turns each thread's two sums into the sums before it.
__device__ __forceinline__ void sums_before(int& x, int& y, int (*sums)[32]) {
  const int lane = scheduler() % 32, warp = scheduler() / 32;
  const int own_x = x, own_y = y;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int other_x = __shfl_up_sync(~0u, x, by), other_y = __shfl_up_sync(~0u, y, by);
    if (lane >= by) x += other_x, y += other_y;
  }
  if (lane == 31) sums[0][warp] = x, sums[1][warp] = y;
  meet(1, kScheduleThreads);
  x += __reduce_add_sync(~0u, lane < warp ? sums[0][lane] : 0) - own_x;
  y += __reduce_add_sync(~0u, lane < warp ? sums[1][lane] : 0) - own_y;
}

// `line`: each thread's first one.
__device__ __forceinline__ void make_schedule(Schedule& s, Counts& counts, const Arguments& args, const Line& line) {
  const int me = scheduler(), rows = args.rows * args.sections, each = divide_up(rows, kScheduleThreads);
  const int first = min(me * each, rows), last = min(first + each, rows);
  Place at = place_of(args, first);
  Inner inner = Inner::of(args, at);
  if (me < args.lines) counts.put(me, line.order, line.steps, line.slabs);
#pragma unroll 1
  for (int i = me + kScheduleThreads; i < args.lines; i += kScheduleThreads) {
    const Line other = Line::read(args, i);
    counts.put(i, other.order, other.steps, other.slabs);
  }
  meet(1, kScheduleThreads);

  int tiles = 0, cost = 0;
#pragma unroll 1
  for (int i = first; i < last; ++i) {
    if (i > first) at = place_of(args, i), inner = Inner::of(args, at);
    const int of = counts.order[inner.place];
    Row row = row_of(args, at, inner.row, of, counts.steps[of], counts.slabs[of]);
    row.cost = cost, row.tiles = static_cast<unsigned short>(tiles);
    s.rows[i] = row;
    tiles += tiles_of(row);
    cost += tiles_of(row) * tile_cost(at.panel == args.panels ? 1 : 2, row.steps);
  }
  int tiles_before = tiles, cost_before = cost;
  sums_before(tiles_before, cost_before, counts.sums);
#pragma unroll 1
  for (int i = first; i < last; ++i) {
    s.rows[i].tiles += static_cast<unsigned short>(tiles_before);
    s.rows[i].cost += cost_before;
  }
  // The copy engine will overwrite the counts.
  publish_shared();
  const auto all = static_cast<unsigned short>(tiles_before + tiles);
  if (me == kScheduleThreads - 1) s.rows[rows] = {cost_before + cost, all, 0, 0, 0, 0};
}

}  // namespace sparsedrop
