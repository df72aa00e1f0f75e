// sums[row, lane] += broadcast[row, k] * packed[k, lane], with the sums held in registers over all runs.
#pragma once

#include "kernels.h"
#include "vectors.h"

namespace sparsedrop {
namespace {

// Two vectors of each row, two of the panel and one that is broadcast must fit in the registers.
#if defined(__AVX512F__)
constexpr int vector_rows = 12;
#else
constexpr int vector_rows = 6;
#endif

// One step at a time: the packed group is one element, already in the type of the sums.
template <class T>
struct Single {
  using Element = T;
  using Group = Sum<T>;
  using GroupVector = Sums<T>;
  static constexpr int pair = 1, max_rows = vector_rows;
  static constexpr bool columns_by_row = false;
  static constexpr bool in_place = sizeof(T) == sizeof(Group);

  static void multiply_add(Sums<T>& sums, GroupVector packed, Group broadcast) { sums += packed * broadcast; }
  static GroupVector load_groups(const T* from) { return load_sums(from); }
  static GroupVector load_groups(const T* from, ptrdiff_t stride, ptrdiff_t steps) {
    return load_sums(from, stride, steps);
  }
  static GroupVector join_steps(const T* from, ptrdiff_t) { return load_sums(from); }
  static GroupVector join_steps(const T* from, ptrdiff_t, ptrdiff_t lanes, ptrdiff_t) {
    return load_sums(from, 1, lanes);
  }
};

#if defined(__AVX512BF16__)
// Two steps at a time: a group is a pair of bfloat16.
struct Paired {
  using Element = bfloat16;
  using Group = uint32_t;
  using GroupVector = Words;
  static constexpr int pair = 2, max_rows = vector_rows;
  static constexpr bool columns_by_row = false;
  static constexpr bool in_place = true;

  static void multiply_add(Floats& sums, GroupVector packed, Group broadcast) {
    sums = (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)packed, (__m512bh)_mm512_set1_epi32((int)broadcast));
  }
  static GroupVector load_groups(const bfloat16* from) { return load<Words>(from); }
  static GroupVector load_groups(const bfloat16* from, ptrdiff_t stride, ptrdiff_t steps) {
    bfloat16 some[2 * float_lanes] = {};
    for (ptrdiff_t i = 0; i < 2 * float_lanes && i < steps; ++i) some[i] = from[i * stride];
    return load<Words>(some);
  }
  static GroupVector join_steps(const bfloat16* from, ptrdiff_t step_stride) {
    return widen(load<Shorts>(from)) | (widen(load<Shorts>(from + step_stride)) << 16);
  }
  static GroupVector join_steps(const bfloat16* from, ptrdiff_t step_stride, ptrdiff_t lanes, ptrdiff_t steps) {
    Words even = (Words)load_sums(from, 1, lanes) >> 16;
    return steps < 2 ? even : even | (Words)load_sums(from + step_stride, 1, lanes);
  }
};
#endif

template <class Scheme, int rows, int vectors>
void multiply_tile(const Tile& tile) {
  using Group = typename Scheme::Group;
  using GroupVector = typename Scheme::GroupVector;
  using T = Sum<typename Scheme::Element>;
  constexpr int lanes = lanes_of<T>;
  T* out = static_cast<T*>(tile.sums);
  Sums<T> sums[rows][vectors] = {};
  if (tile.accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sums[r][v] = load_sums(out + r * tile.sums_row + v * lanes);
  }
  const ptrdiff_t row_bytes = tile.row_bytes, group_bytes = tile.group_bytes;
  for (ptrdiff_t i = 0; i < tile.run_count; ++i) {
    const Run run = tile.runs[i];
    auto packed = static_cast<const Group*>(tile.packed) + run.packed * vectors * lanes;
    auto broadcast = static_cast<const char*>(tile.broadcast) + run.broadcast * group_bytes;
    for (ptrdiff_t g = 0; g < run.groups; ++g) {
      GroupVector panel[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) panel[v] = load<GroupVector>(packed + v * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        Group one = load<Group>(broadcast + r * row_bytes);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) Scheme::multiply_add(sums[r][v], panel[v], one);
      }
      packed += vectors * lanes;
      broadcast += group_bytes;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store_sums(out + r * tile.sums_row + v * lanes, sums[r][v]);
}

template <class Scheme, size_t... i>
void multiply_some(const Tile& tile, int rows, int vectors, std::index_sequence<i...>) {
  using Function = void (*)(const Tile&);
  static constexpr Function table[][2] = {{multiply_tile<Scheme, i + 1, 1>, multiply_tile<Scheme, i + 1, 2>}...};
  table[rows - 1][vectors - 1](tile);
}

template <class Scheme>
void multiply(const Tile& tile, int rows, int vectors) {
  multiply_some<Scheme>(tile, rows, vectors, std::make_index_sequence<Scheme::max_rows>());
}

}  // namespace
}  // namespace sparsedrop
