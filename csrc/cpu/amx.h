// The micro-kernel on AMX tiles: sixteen groups of a panel and of up to 32 broadcast rows in one instruction.
#pragma once

#include "microkernel.h"
#include "pack.h"

#if defined(__AMX_BF16__)
namespace sparsedrop {
namespace {

// As Paired, which also multiplies what does not fill a tile. The broadcast operand lies row by row, packed or not.
struct Tiled : Paired {
  static constexpr int max_rows = 32;
  static constexpr bool columns_by_row = true;
};

constexpr int tile_rows = 16, tile_groups = 16;

// Tiles 0 to 3 hold sums (rows × vectors), 4 and 5 broadcast rows, 6 and 7 the panel's vectors.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  TileShapes(int low, int high) {
    const int counts[] = {low, low, high, high, low, high, tile_groups, tile_groups};
    for (int i = 0; i < 8; ++i) rows[i] = counts[i], row_bytes[i] = counts[i] ? 64 : 0;
  }
};

// The intrinsics do not tell the compiler which memory they read and write.
inline void memory_barrier(const void* of) { __asm__ volatile("" ::"r"(of) : "memory"); }

template <bool high, bool wide>
void multiply_tiles(const Tile& tile, int rows) {
  const TileShapes shapes(high ? tile_rows : rows, high ? rows - tile_rows : 0);
  const ptrdiff_t width = (wide ? 32 : 16) * sizeof(uint32_t), sums_row = tile.sums_row * sizeof(float);
  char *sums = static_cast<char*>(tile.sums), *high_sums = sums + tile_rows * sums_row;
  memory_barrier(&shapes);
  _tile_loadconfig(&shapes);
  if (tile.accumulate) {
    _tile_loadd(0, sums, sums_row);
    if (wide) _tile_loadd(1, sums + 64, sums_row);
    if (high) _tile_loadd(2, high_sums, sums_row);
    if (high && wide) _tile_loadd(3, high_sums + 64, sums_row);
  }
  for (ptrdiff_t i = 0; i < tile.run_count; ++i) {
    const Run run = tile.runs[i];
    auto packed = static_cast<const char*>(tile.packed) + run.packed * width;
    auto broadcast = static_cast<const char*>(tile.broadcast) + run.broadcast * sizeof(uint32_t);
    for (ptrdiff_t g = 0; g + tile_groups <= run.groups; g += tile_groups) {
      _tile_loadd(6, packed, width);
      if (wide) _tile_loadd(7, packed + 64, width);
      _tile_loadd(4, broadcast, tile.row_bytes);
      _tile_dpbf16ps(0, 4, 6);
      if (wide) _tile_dpbf16ps(1, 4, 7);
      if (high) _tile_loadd(5, broadcast + tile_rows * tile.row_bytes, tile.row_bytes);
      if (high) _tile_dpbf16ps(2, 5, 6);
      if (high && wide) _tile_dpbf16ps(3, 5, 7);
      packed += tile_groups * width;
      broadcast += tile_groups * sizeof(uint32_t);
    }
  }
  _tile_stored(0, sums, sums_row);
  if (wide) _tile_stored(1, sums + 64, sums_row);
  if (high) _tile_stored(2, high_sums, sums_row);
  if (high && wide) _tile_stored(3, high_sums + 64, sums_row);
  _tile_release();
  memory_barrier(sums);
}

template <>
void multiply<Tiled>(const Tile& tile, int rows, int vectors) {
  using Function = void (*)(const Tile&, int);
  static constexpr Function table[][2] = {{multiply_tiles<false, false>, multiply_tiles<false, true>},
                                          {multiply_tiles<true, false>, multiply_tiles<true, true>}};
  table[rows > tile_rows][vectors - 1](tile, rows);
  for (ptrdiff_t i = 0; i < tile.run_count; ++i) {
    Run rest = tile.runs[i];
    const ptrdiff_t done = rest.groups / tile_groups * tile_groups;
    rest.packed += done, rest.broadcast += done, rest.groups -= done;
    if (!rest.groups) continue;
    Tile some = tile;
    some.runs = &rest, some.run_count = 1, some.accumulate = true;
    for (int row = 0; row < rows; row += Paired::max_rows) {
      some.broadcast = static_cast<const char*>(tile.broadcast) + row * tile.row_bytes;
      some.sums = static_cast<float*>(tile.sums) + row * tile.sums_row;
      multiply<Paired>(some, static_cast<int>(smaller(Paired::max_rows, rows - row)), vectors);
    }
  }
}

// to[lane * stride + group]; the groups beyond the last step up to a whole vector become zeros.
template <>
void pack_columns<Tiled>(void* to_, ptrdiff_t stride, const Source& source) {
  constexpr int n = float_lanes;
  uint32_t block[n * n];
  Source part = source;
  for (ptrdiff_t lane = 0; lane < source.lanes; lane += n) {
    for (ptrdiff_t step = 0; step < source.steps; step += 2 * n) {
      part.data = static_cast<const bfloat16*>(source.data) + lane * source.lane_stride + step * source.step_stride;
      part.lanes = smaller(n, source.lanes - lane);
      part.steps = smaller(2 * n, source.steps - step);
      pack<Paired>(block, n, part);
      Words rows[n];
      const ptrdiff_t groups = (part.steps + 1) / 2;
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) rows[i] = i < groups ? load<Words>(block + i * n) : Words{};
      transpose<1>(rows);
      uint32_t* to = static_cast<uint32_t*>(to_) + lane * stride + step / 2;
      for (int i = 0; i < n; ++i) store(to + i * stride, rows[i]);
    }
  }
}

}  // namespace
}  // namespace sparsedrop
#endif
