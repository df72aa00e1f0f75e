// The tensor cores, in the place of the kernel's own.
#pragma once

#include "registers.cuh"

namespace sparsedrop {

template <int Pending>
void wgmma_wait() {
  // A warp's multiplications end together.
  const machine::Fiber* const first = machine::block->current - machine::lane();
  machine::wait_until([first] {
    return std::all_of(first, first + 32, [](const machine::Fiber& fiber) { return fiber.groups <= Pending; });
  });
}

template <int Registers>
void shrink_registers() {}
template <int Registers>
void grow_registers() {}

template <bool LinesFirst>
u64 describe(u32 address) {
  return address;
}

template <bool LinesFirst>
float element(u32 address, int line, int term) {
  const int row = LinesFirst ? term : line, column = LinesFirst ? line % 64 : term;
  const u32 at = address + (LinesFirst ? line / 64 * 8192 : 0) + row * 128 + (column / 8 ^ row % 8) * 16 + column % 8 * 2;
  unsigned short bits;
  std::memcpy(&bits, memory + at, 2);
  return to_float(bits);
}

// A thread's share: two lines of A, two of every eight lines of B.
template <bool ALinesFirst, bool BLinesFirst, int Sums>
void multiply(float (&c)[Sums], u64 a, u64 b, bool add) {
  machine::Fiber& fiber = *machine::block->current;
  const int line = static_cast<int>(fiber.thread.x) / 32 % 4 * 16 + static_cast<int>(machine::lane()) / 4;
  const int column = machine::lane() % 4 * 2;
  ++fiber.groups;
  fiber.multiplications.push_back([=, &c] {
    float lines[2][64];
    for (int i = 0; i < 2; ++i)
      for (int t = 0; t < 64; ++t) lines[i][t] = element<ALinesFirst>(static_cast<u32>(a), line + 8 * i, t);
    for (int j = 0; j < Sums / 2; ++j) {
      const int of_b = j / 2 * 8 + column + j % 2;
      float sums[2] = {};
      for (int t = 0; t < 64; ++t) {
        const float other = element<BLinesFirst>(static_cast<u32>(b), of_b, t);
        for (int i = 0; i < 2; ++i) sums[i] += lines[i][t] * other;
      }
      for (int i = 0; i < 2; ++i) {
        float& sum = c[j / 2 * 4 + 2 * i + j % 2];
        sum = add ? sum + sums[i] : sums[i];
      }
    }
  });
  fiber.multiplications.emplace_back();
  machine::exchange(0);  // a warp multiplies together
}

}  // namespace sparsedrop
