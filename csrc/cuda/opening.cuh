// A thread block's first tile, found by one warp while others make the schedule, where there are so many that it must be a whole
// one. So the copy engine starts early.
#pragma once

#include "shared.cuh"

namespace sparsedrop {

// What one thread block does next.
struct Work {
  int tile;          // in its row
  int halves;        // of the tile
  int first, count;  // steps; a row without terms sums zeros: one step outside the matrices
  int peers;         // stretches just before this thread block's that hold sums of the tile's beginning
  bool whole;        // whether the tile's end is here
};

class Opening {
 public:
  // Begins to read what there is to know of all lines, if they are few.
  __device__ __forceinline__ void begin(const Arguments& args) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) lines_[i] = Line::read(args, min(lane() + 32 * i, args.lines - 1));
  }

  __device__ __forceinline__ bool find(const Arguments& args, Row& row, Work& work) const {
    if (!many(args)) return false;
    const int number = blockIdx.x, rows = args.rows * args.sections;
    int before = 0;
#pragma unroll 1
    for (int first = 0; first < rows; first += 32) {
      const Place at = place_of(args, min(first + lane(), rows - 1));
      const Inner inner = Inner::of(args, at);
      const int line = pick(&Line::order, inner.place);
      Row mine = row_of(args, at, inner.row, line, pick(&Line::steps, line), pick(&Line::slabs, line));
      const int tiles = first + lane() < rows ? tiles_of(mine) : 0;
      int until = tiles;
#pragma unroll
      for (int by = 1; by < 32; by *= 2) {
        const int other = __shfl_up_sync(~0u, until, by);
        if (lane() >= by) until += other;
      }
      mine.tiles = static_cast<unsigned short>(before + until - tiles);
      const unsigned reached = __ballot_sync(~0u, before + until > number);
      if (reached) {
        row = shuffle(mine, __ffs(reached) - 1);
        const int tile = number - row.tiles;
        work = {tile, halves_of(row, tile), 0, steps_of(row), 0, true};
        return true;
      }
      before += __shfl_sync(~0u, until, 31);
    }
    return false;
  }

 private:
  static constexpr int kEach = 4;  // lines for each lane

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  // Whether there are two tiles for each thread block at least, leaving out the last line, whose rows may not all exist.
  __device__ __forceinline__ bool many(const Arguments& args) const {
    if (args.lines > 32 * kEach || args.rows < args.lines * args.rows_per_block) return false;
    int tiles = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (lane() + 32 * i < args.lines - 1) tiles += divide_up(lines_[i].slabs, 4);
    return __reduce_add_sync(~0u, tiles) * args.rows_per_block >= 2 * static_cast<int>(gridDim.x);
  }

  __device__ __forceinline__ int pick(int Line::*what, int line) const {
    int value = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int found = __shfl_sync(~0u, lines_[i].*what, line % 32);
      if (line / 32 == i) value = found;
    }
    return value;
  }

  __device__ __forceinline__ static Row shuffle(const Row& row, int from) {
    const auto get = [&](unsigned value) { return __shfl_sync(~0u, static_cast<int>(value), from); };
    return {0, static_cast<unsigned short>(get(row.tiles)), static_cast<unsigned short>(get(row.steps)),
            static_cast<unsigned>(get(row.line)), static_cast<unsigned>(get(row.slabs)), static_cast<unsigned>(get(row.place))};
  }

  Line lines_[kEach];
};

}  // namespace sparsedrop
