// What the driver asks of one instruction set: pack an operand, multiply a micro-tile, finish a result.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsedrop {

// A stretch of the sum that is adjacent both in the packed operand and in the broadcast one.
// Positions and lengths count groups: one step of the sum, or two where the CPU multiplies pairs.
struct Run {
  ptrdiff_t packed, broadcast, groups;
};

// One micro-tile: `rows` of the broadcast operand times one panel of the packed operand.
struct Tile {
  const void* packed;
  const void* broadcast;
  ptrdiff_t row_bytes, group_bytes;  // strides of the broadcast operand
  const Run* runs;
  ptrdiff_t run_count;
  void* sums;
  ptrdiff_t sums_row;  // in sums
  bool accumulate;
};

// A matrix in memory seen as lanes × steps; strides are in elements.
struct Source {
  const void* data;
  ptrdiff_t lane_stride, step_stride, lanes, steps;
};

// The sums are read in whole vectors of rows and lanes, whatever lies beyond the last ones.
// out[lane, row] = scale_out * (scale_in * sums[row, lane] + bias[lane, row]). One of the strides of out is 1; the bias
// varies along that direction alone, and its other stride is 0.
struct Result {
  void* out;
  ptrdiff_t lane_stride, row_stride;
  void* sums;
  ptrdiff_t sums_row, lanes, rows;
  const void* bias;
  ptrdiff_t bias_lane_stride, bias_row_stride;
  float scale_in, scale_out;
};

struct Kernels {
  int lanes;      // sums in one vector
  int max_rows;   // broadcast rows in one micro-tile
  int pair;       // steps in one group
  size_t element_bytes, group_bytes, sum_bytes;
  bool in_place;  // the broadcast operand may be read where it lies, without packing
  bool columns_by_row;  // the broadcast operand is packed as rows × groups instead of groups × rows
  void (*pack)(void* to, ptrdiff_t width, const Source& from);
  void (*pack_columns)(void* to, ptrdiff_t stride, const Source& from);  // of groups
  void (*multiply)(const Tile&, int rows, int vectors);  // panels are one or two vectors wide
  void (*finish)(const Result&);
  void (*add_steps)(void* sums, const Source&);  // sums[lane] += the sum over steps; lanes lie side by side
};

enum class Element { float32, float64, bfloat16, float16 };

// The kernels of the instruction set in use: the best that this CPU has, or the one that the
// environment variable SPARSEDROP_CPU_ISA names.
const Kernels& kernels_for(Element);

}  // namespace sparsedrop
