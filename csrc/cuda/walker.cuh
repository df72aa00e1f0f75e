// A thread block's way through the schedule. Its first tile is that of its own index; then it takes the next one whenever it is
// about to end one. So the longest go to those with the least work, and all reach about the same terms of the sum at the same
// time, which they then share in the cache. Where whole tiles would not come out even, the last one to two rounds are divided
// by cost: each thread block takes a stretch of them, and a tile across a border is summed in parts. Where there are only few
// tiles, with long sums of nearly the same length, each counts the same, so that stretches begin at the same terms in all rows.
#pragma once

#include "shared.cuh"

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
  int peers;         // stretches just before this thread block's that hold sums of the tile's beginning
  bool whole;        // whether the tile's end is here
};

// One warp walks together.
class Walker {
 public:
  __device__ __forceinline__ Walker(Shared& shared, const Arguments& args)
      : shared_(shared), schedule_(shared.schedule), args_(args), rows_(args.rows * args.sections),
        tiles_(schedule_.rows[rows_].tiles) {
    const int blocks = gridDim.x, rounds = divide_small(tiles_, blocks), cost = schedule_.rows[rows_].cost;
    const int last = tile_cost(2, schedule_.rows[rows_ - 1].steps), left = tiles_ - rounds * blocks;
    longest_ = tile_cost(2, schedule_.rows[0].steps);
    const bool large = static_cast<long long>(args.size_b) * args.terms > kCached;
    in_step_ = large && 4 * tiles_ <= 3 * blocks && 10ll * longest_ * tiles_ <= 11ll * cost;
    // What whole tiles would leave idle at the end, against what parts cost, and what it costs to be out of step.
    const int idle = max(longest_ * blocks - cost, left ? (blocks - left) * last : 0);
    divided_ = idle > (kPartCost * kWhole + (large && rounds > 0 ? longest_ / 8 : 0)) * blocks;
    dealt_ = divided_ ? max(rounds - 1, 0) * blocks : tiles_;
    numbers_ = max(dealt_ - blocks, 0);
    asks_ = numbers_ > 0 || (divided_ && dealt_ > 0);
    patient_ = cost >= tiles_ * kWhole * kLongSum;
    if (asks_ && blockIdx.x == 0 && threadIdx.x % 32 == 0) {
      args.flags[blocks + 1] = 0;
      set_flag(args.flags + blocks, args.ticket);
    }
  }

  __device__ __forceinline__ bool next(Work& work) {
    Spot from = {0, 0};
    int last = kLongest;
    if (stretch_ < 0 && !choose(from.tile)) return false;
    if (stretch_ >= 0) {
      if (at_.before(end_)) {
        from = at_;
        if (from.tile == end_.tile) last = end_.step;
        at_ = {from.tile + 1, 0};
      } else if (tail_end_ > tail_.step) {
        from = tail_, last = tail_end_;
        tail_end_ = 0;
      } else {
        return false;
      }
    }
    const int at = row_at(&Row::tiles, from.tile), tile = from.tile - schedule_.rows[at].tiles;
    const int steps = steps_of(schedule_.rows[at]);
    last = min(last, steps);
    const int halves = halves_of(schedule_.rows[at], tile);
    work = {at, tile, halves, from.step, last - from.step, from.step > 0 ? peers_ : 0, last == steps};
    return true;
  }

  __device__ __forceinline__ const Row& row(int at) const { return schedule_.rows[at]; }
  __device__ __forceinline__ int stretch() const { return stretch_; }

 private:
  // A whole tile, or a stretch; false where there is neither.
  __device__ __forceinline__ bool choose(int& tile) {
    const int blocks = gridDim.x;
    // The first tiles come before all that are asked for.
    int number = dealt_ > 0 || !divided_ ? static_cast<int>(blockIdx.x) - blocks : static_cast<int>(blockIdx.x);
    if (begun_) {
      if (!asks_) return false;
      number = ask();
    }
    if (number < numbers_) {
      tile = number + blocks;
      // Where sums are short, ahead, since the cache holds them whole, but for the first tile, which is not to wait for this,
      // and the last ones, which make all end at the same time.
      ahead_ = begun_ && asks_ && !patient_ && number + 2 * blocks < numbers_;
      if (ahead_) take_number();
      begun_ = true;
      ++taken_;
      return tile < tiles_;
    }
    // Who comes last clears away, for a launch that is repeated with the same ticket.
    if (asks_ && number == numbers_ + blocks - 1 && threadIdx.x % 32 == 0) args_.flags[blocks] = 0;
    if (divided_) learn_stretch(number - numbers_);
    return divided_;
  }

  // As late as can be: when the producer is about to end the last tile.
  __device__ __forceinline__ int ask() {
    if (!ahead_) {
      wait(shared_.soon, (taken_ - 1) % 2);
      take_number();
    }
    return __shfl_sync(~0u, number_, 0);
  }

  __device__ __forceinline__ void take_number() {
    if (threadIdx.x % 32 == 0) {
      wait_flag(args_.flags + gridDim.x, args_.ticket);
      number_ = static_cast<int>(count_up(args_.flags + gridDim.x + 1));
    }
  }

  __device__ __forceinline__ void learn_stretch(int stretch) {
    stretch_ = stretch;
    const Row& first = schedule_.rows[row_at(&Row::tiles, min(dealt_, tiles_ - 1))];
    const int begin = dealt_ > 0 ? first.cost + (dealt_ - first.tiles) * tile_cost(2, first.steps) : 0;
    const int cost = in_step_ ? tiles_ * longest_ : schedule_.rows[rows_].cost;
    const int share = max(divide_up(cost - begin, static_cast<int>(gridDim.x)), kLeastShare);
    at_ = spot_at(begin + stretch * share), end_ = spot_at(begin + (stretch + 1) * share);
    if (at_.step == 0 || !at_.before(end_)) return;
    // Its first tile began elsewhere: that one comes last, when those who began it are done with it.
    tail_ = at_;
    at_ = {tail_.tile + 1, 0};
    tail_end_ = end_.step;
    if (tail_.tile == end_.tile) return;
    tail_end_ = kLongest;
    const int at = row_at(&Row::tiles, tail_.tile), tile = tail_.tile - schedule_.rows[at].tiles;
    const Row& row = schedule_.rows[at];
    const int inside = in_step_ ? tail_.tile * longest_ + divide_up(kShortest * longest_, steps_of(row))
                                : row.cost + tile * tile_cost(2, row.steps) + kShortest * step_cost(halves_of(row, tile));
#pragma unroll 1
    do ++peers_;
    while (begin + (stretch - peers_) * share >= inside);
  }

  // The last row that begins at or before `at`.
  template <class Count>
  __device__ __forceinline__ int row_at(Count Row::*begin, int at) const {
    const int lane = threadIdx.x % 32;
    const Row* const rows = schedule_.rows;
    const unsigned coarse = __ballot_sync(~0u, lane * 32 < rows_ && rows[min(lane * 32, rows_)].*begin <= at);
    const int base = (__popc(coarse) - 1) * 32, mine = base + lane;
    return base + __popc(__ballot_sync(~0u, mine < rows_ && rows[min(mine, rows_)].*begin <= at)) - 1;
  }

  // What lies close to a tile's edge moves onto it.
  __device__ __forceinline__ Spot spot_at(int cost) const {
    if (cost >= (in_step_ ? tiles_ * longest_ : schedule_.rows[rows_].cost)) return {tiles_, 0};
    const Row& row = schedule_.rows[in_step_ ? row_at(&Row::tiles, cost / longest_) : row_at(&Row::cost, cost)];
    const int steps = steps_of(row), whole = in_step_ ? longest_ : tile_cost(2, row.steps);
    const int before = in_step_ ? row.tiles * longest_ : row.cost, tile = (cost - before) / whole;
    const int rest = cost - before - tile * whole;
    const int step = in_step_ ? rest * steps / longest_ : rest / step_cost(halves_of(row, tile));
    if (step < kShortest) return {row.tiles + tile, 0};
    return steps - step < kShortest ? Spot{row.tiles + tile + 1, 0} : Spot{row.tiles + tile, step};
  }

  Shared& shared_;
  const Schedule& schedule_;
  const Arguments& args_;
  int rows_, tiles_, longest_;
  bool in_step_;      // whether all tiles count the same
  bool divided_;      // whether there are stretches
  int dealt_;         // tiles before them
  int numbers_;       // of tiles that are asked for; those above are stretches
  bool asks_, patient_, ahead_ = false, begun_ = false;
  int taken_ = 0, number_ = 0;
  int stretch_ = -1;
  Spot at_ = {0, 0}, end_ = {0, 0};  // what the stretch begins and ends with
  Spot tail_ = {0, 0};               // what of it comes last
  int tail_end_ = 0, peers_ = 0;
};

}  // namespace sparsedrop
