// 16-bit elements in registers, in the place of the kernel's own.
#pragma once

#include "barriers.cuh"

namespace sparsedrop {

static_assert(SPARSEDROP_TYPE[0] == 'b', "bfloat16 only");

inline float to_float(u32 bits) {
  bits <<= 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline u32 to_bits(float value) {
  u32 bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return 0x7FFF;
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

inline u32 pack(float low, float high) { return to_bits(low) | to_bits(high) << 16; }

template <bool Transposed>
void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
  const auto addresses = machine::exchange(address);
  const u32 matrices[] = {a, b, c, d};
  const int row = static_cast<int>(machine::lane()) / 4, column = machine::lane() % 4 * 2;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 2; ++j) {
      const int line = Transposed ? column + j : row, place = Transposed ? row : column + j;
      const unsigned short element = static_cast<unsigned short>(matrices[i] >> 16 * j);
      std::memcpy(memory + addresses[8 * i + line] + 2 * place, &element, 2);
    }
  machine::exchange(0);
}

}  // namespace sparsedrop
