// The thread blocks of a GPU on one CPU thread: every CUDA thread is a fiber, and what the hardware does on its own (copies,
// multiplications) happens at some random later moment, so that code which does not wait for it goes wrong here too. Thread
// blocks take turns, at random.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <vector>

namespace machine {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Fiber {
  Index thread;
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 17);
  std::function<bool()> ready;  // what it waits for
  bool done = false;
  std::deque<std::function<void()>> multiplications;  // in order; an empty one ends a group
  int groups = 0, stores_open = 0;
  u64 cluster_generation = 0;  // of the cluster's meeting, when it arrived
};

struct Warp {
  int posted = 0;
  u64 generation = 0;
  std::array<u64, 32> values, shared;
};

struct Meeting {
  int arrived = 0;
  u64 generation = 0;
};

struct Barrier {
  int arrivals = 0, pending = 0;
  long bytes = 0;
  unsigned phase = 0;
  void settle() {
    if (pending == 0 && bytes == 0) phase ^= 1, pending = arrivals;
  }
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::map<int, Meeting> meetings;
  std::map<const void*, Barrier> barriers;
  std::vector<std::function<void()>> copies;  // under way, in no order
  std::function<void()> kernel;
  Fiber* current = nullptr;
  ucontext_t scheduler;
  u64 random = 1;
  Index index;
  unsigned left = 0;         // threads
  bool yields = false;       // whether another thread block may run
  std::vector<char> shared;  // its memory, meanwhile
  std::vector<Block*> cluster;  // by rank, this one too
  Meeting* cluster_meeting = nullptr;

  unsigned draw(unsigned below) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return static_cast<unsigned>(random % below);
  }
};

inline Block* block;
inline std::function<void()> before;  // what kernels before this one have still to do
inline bool failed;  // for a reason that was printed
inline Index block_index, grid_size;

inline void wait_until(std::function<bool()> ready) {
  // Also where there is nothing to wait for, others may come first.
  Fiber& own = *block->current;
  own.ready = std::move(ready);
  swapcontext(&own.context, &block->scheduler);
}

inline Warp& warp() { return block->warps[block->current->thread.x / 32]; }
inline unsigned lane() { return block->current->thread.x % 32; }

// What all lanes of the warp bring.
inline std::array<u64, 32> exchange(u64 value) {
  Warp& own = warp();
  own.values[lane()] = value;
  const u64 generation = own.generation;
  if (++own.posted == 32) {
    own.shared = own.values;
    own.posted = 0;
    ++own.generation;
  }
  wait_until([&own, generation] { return own.generation != generation; });
  return own.shared;
}

inline void meet(int name, int threads) {
  Meeting& own = block->meetings[name];
  const u64 generation = own.generation;
  if (++own.arrived == threads) own.arrived = 0, ++own.generation;
  wait_until([&own, generation] { return own.generation != generation; });
}

// Another thread block of the cluster, which must not have ended.
inline Block& beside(int rank) {
  Block& other = *block->cluster[rank];
  if (other.left == 0 && !failed) {
    std::fprintf(stderr, "a thread block writes to one that has ended\n");
    failed = true;
  }
  return other;
}

inline void enter() {
  block->kernel();
  block->current->done = true;
  swapcontext(&block->current->context, &block->scheduler);
}

// Something that happens on its own; false where there is nothing.
inline bool happen() {
  auto& copies = block->copies;
  std::vector<Fiber*> multiplying;
  for (Fiber& fiber : block->fibers)
    if (!fiber.multiplications.empty()) multiplying.push_back(&fiber);
  const unsigned choices = static_cast<unsigned>(copies.size() + multiplying.size());
  if (choices == 0) return false;
  const unsigned chosen = block->draw(choices);
  if (chosen < copies.size()) {
    const auto copy = copies[chosen];
    copies.erase(copies.begin() + chosen);
    copy();
    return true;
  }
  Fiber& fiber = *multiplying[chosen - copies.size()];
  const auto step = fiber.multiplications.front();
  fiber.multiplications.pop_front();
  if (step)
    step();
  else
    --fiber.groups;
  return true;
}

inline void begin(Block& own, Index index, unsigned threads, u64 seed, std::function<void()> kernel) {
  own.index = index;
  own.kernel = std::move(kernel);
  own.random = seed * 2654435761u + 1;
  own.fibers = std::vector<Fiber>(threads);
  own.warps = std::vector<Warp>(threads / 32);
  own.left = threads;
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = own.fibers[i];
    fiber.thread = {i};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.context, enter, 0);
  }
}

// Until the thread block ends, lets another one run, or all its threads wait; false where nothing moved.
inline bool run(Block& own) {
  block = &own, block_index = own.index;
  own.yields = false;
  const unsigned threads = static_cast<unsigned>(own.fibers.size());
  bool moved = false;
  while (own.left > 0 && !own.yields) {
    if (own.draw(2) == 0) happen();
    const unsigned first = own.draw(threads);
    unsigned tried = 0;
    for (; tried < threads; ++tried) {
      Fiber& fiber = own.fibers[(first + tried) % threads];
      if (fiber.done || (fiber.ready && !fiber.ready())) continue;
      fiber.ready = nullptr;
      own.current = &fiber;
      swapcontext(&own.scheduler, &fiber.context);
      own.left -= fiber.done;
      break;
    }
    if (tried == threads && !happen()) return moved;
    moved = true;
  }
  while (own.left == 0 && happen()) continue;
  return moved;
}

}  // namespace machine

// CUDA's words.
#define __device__
#define __global__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__
#define __align__(bytes)
#define __cluster_dims__(...)
#define __launch_bounds__(...)
#define threadIdx (machine::block->current->thread)
#define blockIdx (machine::block_index)
#define gridDim (machine::grid_size)

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return __builtin_clz(static_cast<unsigned>(bits)); }
inline float __fdividef(float a, float b) { return a / b; }
inline float4 __ldcg(const float4* at) { return *at; }
inline void __stcg(float4* at, float4 value) { *at = value; }
inline void __threadfence() {}
inline void __trap() { std::abort(); }
inline void __syncthreads() {
  machine::block->yields |= machine::block->draw(16) == 0;
  machine::meet(0, static_cast<int>(machine::block->fibers.size()));
}
inline void __syncwarp() { machine::exchange(0); }
inline int __shfl_sync(unsigned, int value, int from) { return static_cast<int>(machine::exchange(static_cast<unsigned>(value))[from]); }
inline int __shfl_up_sync(unsigned, int value, int by) {
  const int lane = static_cast<int>(machine::lane());
  return static_cast<int>(machine::exchange(static_cast<unsigned>(value))[lane < by ? lane : lane - by]);
}
inline unsigned __match_any_sync(unsigned, int value) {
  const auto others = machine::exchange(static_cast<unsigned>(value));
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= static_cast<unsigned>(static_cast<int>(others[i]) == value) << i;
  return same;
}
inline int __reduce_add_sync(unsigned, int value) {
  int sum = 0;
  for (const auto other : machine::exchange(static_cast<unsigned>(value))) sum += static_cast<int>(other);
  return sum;
}
inline int __reduce_max_sync(unsigned, int value) {
  for (const auto other : machine::exchange(static_cast<unsigned>(value))) value = max(value, static_cast<int>(other));
  return value;
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  const auto votes = machine::exchange(vote);
  unsigned all = 0;
  for (int i = 0; i < 32; ++i) all |= static_cast<unsigned>(votes[i]) << i;
  return all;
}
