// Copies of boxes, in the place of the kernel's own.
#pragma once

#include "barriers.cuh"

namespace sparsedrop {

// As the emulated driver describes a matrix.
struct alignas(64) TensorMap {
  u64 address, inner, outer, stride, box_inner, box_outer, rest[10];
};

inline void prefetch(const TensorMap&) {}

// The places of a box in shared memory, and in the matrix where they lie in it.
template <class Move>
void for_box(const TensorMap& map, const char* at, int inner, int outer, const Move& move, char* in = memory) {
  for (int row = 0; row < static_cast<int>(map.box_outer); ++row)
    for (int col = 0; col < static_cast<int>(map.box_inner); ++col) {
      const u32 own = shared_address(at) + row * 128;
      const u32 place = own + ((col / 8 ^ (own / 128 % 8)) * 16) + col % 8 * 2;
      const long x = inner + col, y = outer + row;
      const bool inside = x >= 0 && y >= 0 && x < static_cast<long>(map.inner) && y < static_cast<long>(map.outer);
      move(reinterpret_cast<unsigned short*>(in + place),
           inside ? reinterpret_cast<unsigned short*>(map.address + y * map.stride + x * 2) : nullptr);
    }
}

inline void load_box(void* to, const TensorMap& map, int inner, int outer, Barrier& full) {
  if (shared_address(to) % 1024) std::abort();
  machine::block->copies.push_back([=, &map, &full] {
    for_box(map, static_cast<char*>(to), inner, outer, [](auto* own, auto* there) { *own = there ? *there : 0; });
    state(full).bytes -= static_cast<long>(map.box_inner * map.box_outer * 2);
    state(full).settle();
  });
}

inline void load_box_for_both(void* to, const TensorMap& map, int inner, int outer, Barrier& full) {
  if (shared_address(to) % 1024) std::abort();
  for (machine::Block* const there : machine::block->cluster)
    machine::block->copies.push_back([=, &map, &full] {
      char* const in = there == machine::block ? memory : there->shared.data();
      for_box(map, static_cast<char*>(to), inner, outer, [](auto* own, auto* there) { *own = there ? *there : 0; }, in);
      machine::Barrier& barrier = machine::beside(there->index.x % there->cluster.size()).barriers[&full];
      barrier.bytes -= static_cast<long>(map.box_inner * map.box_outer * 2);
      barrier.settle();
    });
}

inline void store_box(const TensorMap& map, int inner, int outer, const void* from) {
  machine::Fiber* const fiber = machine::block->current;
  ++fiber->stores_open;
  machine::block->copies.push_back([=, &map] {
    for_box(map, static_cast<const char*>(from), inner, outer, [](auto* own, auto* there) {
      if (there) *there = *own;
    });
    --fiber->stores_open;
  });
}

inline void commit_stores() {}

inline void wait_stores_read() {
  const machine::Fiber& own = *machine::block->current;
  machine::wait_until([&own] { return own.stores_open == 0; });
}

}  // namespace sparsedrop
