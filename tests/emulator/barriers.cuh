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

inline void publish_barriers() {}
inline void publish_shared() {}

inline bool elect_one() {
  machine::exchange(0);
  return machine::lane() == 0;
}

inline void wait_for_kernels_before() {
  if (machine::before) machine::before();
  machine::before = nullptr;
}

// What other thread blocks see: they may run first.
inline void let_others() {
  machine::block->yields = machine::block->draw(2) == 0;
  machine::wait_until([] { return true; });
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
