// Sums over steps, for lanes that lie side by side.
#pragma once

#include "kernels.h"
#include "vectors.h"

namespace sparsedrop {
namespace {

template <class T, int vectors>
void add_steps_to(Sum<T>* sums, const T* from, ptrdiff_t step_stride, ptrdiff_t steps) {
  constexpr int n = lanes_of<T>;
  Sums<T> held[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) held[v] = load_sums(sums + v * n);
  for (ptrdiff_t i = 0; i < steps; ++i, from += step_stride) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) held[v] += load_sums(from + v * n);
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) store_sums(sums + v * n, held[v]);
}

// sums[lane] += Σ over steps; the sums are whole vectors.
template <class T>
void add_steps(void* sums_, const Source& source) {
  constexpr int n = lanes_of<T>;
  Sum<T>* sums = static_cast<Sum<T>*>(sums_);
  const T* from = static_cast<const T*>(source.data);
  ptrdiff_t lane = 0;
  for (; lane + 8 * n <= source.lanes; lane += 8 * n)
    add_steps_to<T, 8>(sums + lane, from + lane, source.step_stride, source.steps);
  for (; lane + n <= source.lanes; lane += n)
    add_steps_to<T, 1>(sums + lane, from + lane, source.step_stride, source.steps);
  if (lane == source.lanes) return;
  Sums<T> held = load_sums(sums + lane);
  for (ptrdiff_t i = 0; i < source.steps; ++i)
    held += load_sums(from + lane + i * source.step_stride, 1, source.lanes - lane);
  store_sums(sums + lane, held);
}

}  // namespace
}  // namespace sparsedrop
