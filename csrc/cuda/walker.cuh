// A thread block's way through the schedule, or that of two side by side. The first tile is that of its own index, or theirs; then it
// takes the next one whenever it is about to end one. So the longest go to those with the least work, and all reach about the same
// terms of the sum at the same time, which they then share in the cache. Where whole tiles would not come out even, the last one to
// two rounds are divided by cost: each thread block takes a stretch of them, and a tile across a border is summed in parts. Where
// there are only few tiles, with long sums of nearly the same length, each counts the same, so that stretches begin at the same terms
// in all rows.
#pragma once

#include "shared.cuh"

namespace sparsedrop {

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
      : shared_(shared), plan_(shared.plan), schedule_(shared.schedule), args_(args) {
    const int blocks = pairs(), tiles = all().tiles, rounds = divide_small(tiles, blocks), cost = all().cost;
    const int longest = tile_cost(2, schedule_.rows[0].steps), last = tile_cost(2, schedule_.rows[rows() - 1].steps);
    const int left = tiles - rounds * blocks;
    const bool large = static_cast<long long>(args.size_b) * args.terms > kCached;
    // What whole tiles would leave idle at the end, against what parts cost, and what it costs to be out of step.
    const int idle = max(longest * blocks - cost, left ? (blocks - left) * last : 0);
    const bool divided = tiles > 0 && idle > (kPartCost * kWhole + (large && rounds > 0 ? longest / 8 : 0)) * blocks;
    const int dealt = divided ? max(rounds - 1, 0) * blocks : tiles, asked_for = max(dealt - blocks, 0);
    const bool asks = asked_for > 0 || (divided && dealt > 0);
    plan_ = {dealt, asked_for, longest, divided, asks, cost >= tiles * kWhole * kLongSum,
             large && 4 * tiles <= 3 * blocks && 10ll * longest * tiles <= 11ll * cost};
    if (asks && blockIdx.x == 0 && threadIdx.x % 32 == 0) {
      args.flags[gridDim.x + 1] = 0;
      set_flag(args.flags + gridDim.x, args.ticket);
    }
    __syncwarp();
  }

  __device__ __forceinline__ bool next(Work& work) {
    Spot from = {0, 0};
    int last = kLongest;
    if (stretch_ < 0 && !choose(from.tile)) return false;
    int peers = 0;
    if (stretch_ >= 0) {
      const Stretch now = shared_.stretch;
      __syncwarp();
      if (now.at.before(now.end)) {
        from = now.at;
        if (from.tile == now.end.tile) last = now.end.step;
        shared_.stretch.at = {from.tile + 1, 0};
      } else if (now.tail_end > now.tail.step) {
        from = now.tail, last = now.tail_end, peers = now.peers;
        shared_.stretch.tail_end = 0;
      } else {
        return false;
      }
      __syncwarp();
    }
    const int at = row_at(&Row::tiles, from.tile), tile = from.tile - schedule_.rows[at].tiles;
    const int steps = steps_of(schedule_.rows[at]);
    last = min(last, steps);
    const int halves = halves_of(schedule_.rows[at], tile);
    work = {at, tile, halves, from.step, last - from.step, peers, last == steps};
    return true;
  }

  __device__ __forceinline__ const Row& row(int at) const { return schedule_.rows[at]; }
  __device__ __forceinline__ int stretch() const { return stretch_; }

 private:
  __device__ __forceinline__ int rows() const { return args_.rows * args_.sections; }
  __device__ __forceinline__ const Row& all() const { return schedule_.rows[rows()]; }

  // A whole tile, or a stretch; false where there is neither.
  __device__ __forceinline__ bool choose(int& tile) {
    const int blocks = pairs();
    // The first tiles come before all that are asked for.
    int number = plan_.dealt > 0 || !plan_.divided ? pair() - blocks : pair();
    if (taken_ > 0) {
      if (!plan_.asks) return false;
      number = ask();
    }
    if (number < plan_.asked_for) {
      tile = number + blocks;
      // Where sums are short, ahead, since the cache holds them whole, but for the first tile, which is not to wait for this,
      // and the last ones, which make all end at the same time.
      ahead_ = taken_ > 0 && !plan_.patient && number + 2 * blocks < plan_.asked_for;
      if (ahead_) take_number();
      ++taken_;
      return tile < all().tiles;
    }
    // Who comes last clears away, for a launch that is repeated with the same ticket.
    if (plan_.asks && number == plan_.asked_for + blocks - 1 && threadIdx.x % 32 == 0) args_.flags[gridDim.x] = 0;
    if (plan_.divided) learn_stretch(number - plan_.asked_for);
    return plan_.divided;
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
      // The first time the count may not have begun.
      if (taken_ == 1) wait_flag(args_.flags + gridDim.x, args_.ticket);
      number_ = static_cast<int>(count_up(args_.flags + gridDim.x + 1));
    }
  }

  __device__ __forceinline__ void learn_stretch(int stretch) {
    stretch_ = stretch;
    const Row& first = schedule_.rows[row_at(&Row::tiles, min(plan_.dealt, all().tiles - 1))];
    const int begin = plan_.dealt > 0 ? first.cost + (plan_.dealt - first.tiles) * tile_cost(2, first.steps) : 0;
    const int cost = plan_.in_step ? all().tiles * plan_.longest : all().cost;
    const int share = max(divide_up(cost - begin, pairs()), kLeastShare);
    const Spot at = spot_at(begin + stretch * share), end = spot_at(begin + (stretch + 1) * share);
    Stretch own = {at, end, at, 0, 0};
    if (at.step > 0 && at.before(end)) {
      // Its first tile began elsewhere: that one comes last, when those who began it are done with it.
      own.at = {at.tile + 1, 0};
      own.tail_end = at.tile == end.tile ? end.step : kLongest;
      const int before = row_at(&Row::tiles, at.tile);
      const Row& row = schedule_.rows[before];
      const int tile = at.tile - row.tiles;
      const int inside = plan_.in_step ? at.tile * plan_.longest + divide_up(kShortest * plan_.longest, steps_of(row))
                                       : row.cost + tile * tile_cost(2, row.steps) + kShortest * step_cost(halves_of(row, tile));
      if (at.tile < end.tile) {
#pragma unroll 1
        do ++own.peers;
        while (begin + (stretch - own.peers) * share >= inside);
      }
    }
    shared_.stretch = own;
    __syncwarp();
  }

  // The last row that begins at or before `at`: first which 32, then which of them.
  static_assert(kMostRows <= 32 * 32);
  template <class Count>
  __device__ __forceinline__ int row_at(Count Row::*begin, int at) const {
    const int lane = threadIdx.x % 32, count = rows();
    const auto begins = [&](int row) { return row < count && schedule_.rows[min(row, count)].*begin <= at; };
    const int base = (__popc(__ballot_sync(~0u, begins(lane * 32))) - 1) * 32;
    return base + __popc(__ballot_sync(~0u, begins(base + lane))) - 1;
  }

  // What lies close to a tile's edge moves onto it.
  __device__ __forceinline__ Spot spot_at(int cost) const {
    if (cost >= (plan_.in_step ? all().tiles * plan_.longest : all().cost)) return {all().tiles, 0};
    const Row& row = schedule_.rows[plan_.in_step ? row_at(&Row::tiles, cost / plan_.longest) : row_at(&Row::cost, cost)];
    const int steps = steps_of(row), whole = plan_.in_step ? plan_.longest : tile_cost(2, row.steps);
    const int before = plan_.in_step ? row.tiles * plan_.longest : row.cost, tile = (cost - before) / whole;
    const int rest = cost - before - tile * whole;
    const int step = plan_.in_step ? rest * steps / plan_.longest : rest / step_cost(halves_of(row, tile));
    if (step < kShortest) return {row.tiles + tile, 0};
    return steps - step < kShortest ? Spot{row.tiles + tile + 1, 0} : Spot{row.tiles + tile, step};
  }

  Shared& shared_;
  Plan& plan_;
  const Schedule& schedule_;
  const Arguments& args_;
  int taken_ = 0, number_ = 0, stretch_ = -1;
  bool ahead_ = false;  // whether the next number is known
};

}  // namespace sparsedrop
