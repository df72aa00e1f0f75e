// In the place of the kernel's own, which is written in the GPU's instructions.
#pragma once

#include "machine.h"

alignas(1024) inline char memory[232448];

namespace sparsedrop {

using Barrier = unsigned long long;
using u32 = unsigned int;
using u64 = unsigned long long;

inline u32 shared_address(const void* pointer) { return static_cast<u32>(static_cast<const char*>(pointer) - memory); }

inline machine::Barrier& state(Barrier& barrier) { return machine::block->barriers[&barrier]; }

inline void init(Barrier& barrier, int arrivals) { state(barrier) = {arrivals, arrivals}; }

inline void arrive(Barrier& barrier) {
  --state(barrier).pending;
  state(barrier).settle();
}

inline void arrive_and_expect(Barrier& barrier, u32 bytes) {
  state(barrier).bytes += bytes;
  arrive(barrier);
}

inline void wait(Barrier& barrier, u32 parity) {
  machine::Barrier& own = state(barrier);
  machine::wait_until([&own, parity] { return own.phase != parity; });
}

inline void arrive_beside(Barrier& barrier, int rank) {
  machine::Barrier& there = machine::beside(rank).barriers[&barrier];
  --there.pending;
  there.settle();
}

inline void arrive_and_expect_beside(Barrier& barrier, u32 bytes, int rank) {
  machine::beside(rank).barriers[&barrier].bytes += bytes;
  arrive_beside(barrier, rank);
}

inline void write_beside(void* to, u32 value, Barrier& barrier, int rank) {
  const u32 at = shared_address(to);
  machine::block->copies.push_back([=, &barrier] {
    machine::Block& there = machine::beside(rank);
    std::memcpy((&there == machine::block ? memory : there.shared.data()) + at, &value, 4);
    there.barriers[&barrier].bytes -= 4;
    there.barriers[&barrier].settle();
  });
}

inline void arrive_cluster() {
  machine::Meeting& own = *machine::block->cluster_meeting;
  machine::block->current->cluster_generation = own.generation;
  if (++own.arrived == static_cast<int>(machine::block->fibers.size() * machine::block->cluster.size())) own.arrived = 0, ++own.generation;
}
inline void arrive_cluster_relaxed() { arrive_cluster(); }
inline void wait_cluster() {
  const machine::Meeting& own = *machine::block->cluster_meeting;
  const u64 generation = machine::block->current->cluster_generation;
  machine::wait_until([&own, generation] { return own.generation != generation; });
}

inline void publish_barriers() {}
inline void publish_shared() {}

inline bool elect_one() {
  machine::exchange(0);
  return machine::lane() == 0;
}

// What other thread blocks see: they may run first.
inline void let_others() {
  machine::block->yields = machine::block->draw(2) == 0;
  machine::wait_until([] { return true; });
}
inline void wait_for_kernels_before() {
  let_others();
  if (machine::before) machine::before();
  machine::before = nullptr;
}

inline void wait_flag(const u64* flag, u64 value) {
  let_others();
  machine::wait_until([flag, value] { return *flag == value; });
}
inline void set_flag(u64* flag, u64 value) {
  let_others();
  *flag = value;
}

inline u32 count_up(u64* count) {
  let_others();
  return static_cast<u32>((*count)++);
}

inline void meet(int barrier, int threads) { machine::meet(barrier, threads); }

}  // namespace sparsedrop
