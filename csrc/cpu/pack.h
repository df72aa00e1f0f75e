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
    for (ptrdiff_t g = 0; g < groups; ++g, from += pair * step, to += width) {
      const bool whole = (g + 1) * pair <= source.steps;
      ptrdiff_t lane = 0;
      for (; whole && lane + n <= source.lanes; lane += n) store(to + lane, Scheme::join_steps(from + lane, step));
      for (; lane < width; lane += n)
        store(to + lane, Scheme::join_steps(from + lane, step, source.lanes - lane, source.steps - g * pair));
    }
    return;
  }
  for (ptrdiff_t lane = 0; lane < width; lane += n) {
    const T* corner = from + lane * source.lane_stride;
    for (ptrdiff_t g = 0; g < groups; g += n, corner += n * pair * step) {
      GroupVector rows[n];
      if (step == 1 && lane + n <= source.lanes && (g + n) * pair <= source.steps) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) rows[i] = Scheme::load_groups(corner + i * source.lane_stride);
      } else {
        for (int i = 0; i < n; ++i)
          rows[i] = lane + i < source.lanes
                        ? Scheme::load_groups(corner + i * source.lane_stride, step, source.steps - g * pair)
                        : GroupVector{};
      }
      transpose<1>(rows);
      const ptrdiff_t count = smaller(n, groups - g);
      for (ptrdiff_t j = 0; j < count; ++j) store(to + (g + j) * width + lane, rows[j]);
    }
  }
}

// The broadcast operand, where it cannot stay in place.
template <class Scheme>
void pack_columns(void* to, ptrdiff_t stride, const Source& source) {
  pack<Scheme>(to, stride, source);
}

// Where lanes lie side by side in the result, so that sums and result have the same order.
template <class T>
void finish_in_order(const Result& result, Sum<T> scale_in, Sum<T> scale_out) {
  constexpr int n = lanes_of<T>;
  for (ptrdiff_t row = 0; row < result.rows; ++row) {
    const auto sums = static_cast<const Sum<T>*>(result.sums) + row * result.sums_row;
    T* out = static_cast<T*>(result.out) + row * result.row_stride;
    for (ptrdiff_t lane = 0; lane < result.lanes; lane += n) {
      const auto bias = static_cast<const T*>(result.bias);
      const ptrdiff_t at = lane * result.bias_lane_stride + row * result.bias_row_stride, lanes = result.lanes - lane;
      const Sums<T> added = bias ? load_sums(bias + at, result.bias_lane_stride, lanes) : Sums<T>{};
      store_sums(out + lane, (load_sums(sums + lane) * scale_in + added) * scale_out, lanes);
    }
  }
}

template <class T>
void finish(const Result& result) {
  constexpr int n = lanes_of<T>;
  const Sum<T> scale_in = result.scale_in, scale_out = result.scale_out;
  if (result.lane_stride == 1) return finish_in_order<T>(result, scale_in, scale_out);
  for (ptrdiff_t lane = 0; lane < result.lanes; lane += n) {
    const ptrdiff_t lanes = smaller(n, result.lanes - lane);
    for (ptrdiff_t row = 0; row < result.rows; row += n) {
      const ptrdiff_t rows = smaller(n, result.rows - row);
      const auto bias = static_cast<const T*>(result.bias);
      const Sums<T> added = bias ? load_sums(bias + row * result.bias_row_stride, result.bias_row_stride, rows) : Sums<T>{};
      const auto sums = static_cast<const Sum<T>*>(result.sums) + row * result.sums_row + lane;
      Sums<T> block[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) block[i] = load_sums(sums + i * result.sums_row);
      transpose<1>(block);
      T* out = static_cast<T*>(result.out) + lane * result.lane_stride + row;
      if (rows == n && lanes == n) {
#pragma GCC unroll 16
        for (int j = 0; j < n; ++j)
          store_sums(out + j * result.lane_stride, (block[j] * scale_in + added) * scale_out);
      } else {
        for (ptrdiff_t j = 0; j < lanes; ++j)
          store_sums(out + j * result.lane_stride, (block[j] * scale_in + added) * scale_out, rows);
      }
    }
  }
}

}  // namespace
}  // namespace sparsedrop
