// Moves blocks between the layouts of memory and those of the micro-kernel: groups × lanes for the
// packed operand, rows × lanes for the sums.
#pragma once

#include "kernels.h"
#include "microkernel.h"
#include "vectors.h"

namespace sparsedrop {
namespace {

inline ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

// to[group * width + lane]; lanes and steps beyond the source become zeros.
template <class Scheme>
void pack(void* to_, ptrdiff_t width, const Source& source) {
  using T = typename Scheme::Element;
  using Group = typename Scheme::Group;
  using GroupVector = typename Scheme::GroupVector;
  constexpr int n = lanes_of<T>, pair = Scheme::pair;
  const ptrdiff_t groups = (source.steps + pair - 1) / pair, step = source.step_stride;
  Group* to = static_cast<Group*>(to_);
  const T* from = static_cast<const T*>(source.data);

  if (source.lane_stride == 1 && step != 1) {
    for (ptrdiff_t g = 0; g < groups; ++g)
      for (ptrdiff_t lane = 0; lane < width; lane += n)
        store(to + g * width + lane, Scheme::gather_lanes(from + g * pair * step + lane, step, source.lanes - lane,
                                                          source.steps - g * pair));
    return;
  }
  for (ptrdiff_t lane = 0; lane < width; lane += n) {
    for (ptrdiff_t g = 0; g < groups; g += n) {
      GroupVector rows[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i)
        rows[i] = lane + i < source.lanes ? Scheme::load_groups(from + (lane + i) * source.lane_stride + g * pair * step,
                                                                step, source.steps - g * pair)
                                          : GroupVector{};
      transpose<1>(rows);
      const ptrdiff_t count = smaller(n, groups - g);
      for (ptrdiff_t j = 0; j < count; ++j) store(to + (g + j) * width + lane, rows[j]);
    }
  }
}

template <class T>
void finish(const Result& result) {
  using S = Sum<T>;
  constexpr int n = lanes_of<T>;
  T* out = static_cast<T*>(result.out);
  const T* bias = static_cast<const T*>(result.bias);
  const S* sums = static_cast<const S*>(result.sums);
  const S scale_in = result.scale_in, scale_out = result.scale_out;
  auto row_bias = [&](ptrdiff_t row) { return bias ? load_sums(bias + row * result.bias_stride, 1, 1)[0] : S(0); };

  if (result.lane_stride == 1) {
    for (ptrdiff_t row = 0; row < result.rows; ++row) {
      const S added = row_bias(row);
      for (ptrdiff_t lane = 0; lane < result.lanes; lane += n) {
        Sums<T> v = load_sums(sums + row * result.sums_row + lane);
        store_sums(out + row * result.row_stride + lane, (v * scale_in + added) * scale_out, result.lanes - lane);
      }
    }
    return;
  }
  for (ptrdiff_t row = 0; row < result.rows; row += n) {
    for (ptrdiff_t lane = 0; lane < result.lanes; lane += n) {
      Sums<T> block[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        block[i] = Sums<T>{};
        if (row + i < result.rows)
          block[i] = (load_sums(sums + (row + i) * result.sums_row + lane) * scale_in + row_bias(row + i)) * scale_out;
      }
      transpose<1>(block);
      const ptrdiff_t count = smaller(n, result.lanes - lane);
      for (ptrdiff_t j = 0; j < count; ++j)
        store_sums(out + (lane + j) * result.lane_stride + row, block[j], result.rows - row);
    }
  }
}

}  // namespace
}  // namespace sparsedrop
