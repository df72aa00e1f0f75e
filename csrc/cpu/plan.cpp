#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "../host/layer.h"
#include "arguments.h"

namespace sparsedrop {
namespace {

struct Grid {
  const bool* keep;
  int64_t rows, columns, row_stride, column_stride;

  bool at(int64_t row, int64_t column) const { return keep[row * row_stride + column * column_stride]; }
  Grid transposed() const { return {keep, columns, rows, column_stride, row_stride}; }
};

// One direction of the plan: bitmap, count and indices of each row, and the rows by work.
void describe_rows(const Grid& grid, int32_t* bits, int32_t* count, int32_t* order, int32_t* index) {
  const int64_t words = 2 * ((grid.columns + 63) / 64);
  for (int64_t row = 0; row < grid.rows; ++row) {
    int32_t kept = 0;
    for (int64_t column = 0; column < grid.columns; ++column) {
      if (!grid.at(row, column)) continue;
      bits[row * words + column / 32] |= static_cast<int32_t>(1u << (column % 32));
      index[row * grid.columns + kept++] = static_cast<int32_t>(column);
    }
    count[row] = kept;
    for (int64_t column = 0; column < grid.columns; ++column)
      if (!grid.at(row, column)) index[row * grid.columns + kept++] = static_cast<int32_t>(column);
  }
  std::iota(order, order + grid.rows, 0);
  std::stable_sort(order, order + grid.rows, [&](int32_t a, int32_t b) { return count[a] > count[b]; });
}

// The plans of several grids that lie below each other.
Tensor pack_plans(Grid grid, int64_t count) {
  const PlanLayout at = plan_layout(grid.rows, grid.columns);
  Tensor plans = new_tensor({count * at.size}, ScalarType::Int);
  auto words = static_cast<int32_t*>(plans.mutable_data_ptr());
  std::fill_n(words, count * at.size, 0);
  for (; count > 0; --count, words += at.size, grid.keep += grid.rows * grid.row_stride) {
    describe_rows(grid, words + at.row_bits, words + at.row_count, words + at.row_order, words + at.row_index);
    describe_rows(grid.transposed(), words + at.col_bits, words + at.col_count, words + at.col_order, words + at.col_index);
  }
  return plans;
}

// Keeps ⌊k⌋ or ⌊k⌋ + 1 blocks of each row, k = (1 − p) · columns: those with the smallest draws.
// One more draw, in the last column, decides about the extra block with probability k − ⌊k⌋.
void keep_balanced(const float* uniform, double p, int64_t rows, int64_t columns, bool* keep) {
  double wanted = (1 - p) * columns;
  const double nearest = std::nearbyint(wanted);
  // p is a float32: k is an integer where it differs from one by no more than p's rounding.
  if (std::abs(wanted - nearest) <= columns * 0x1p-22) wanted = nearest;
  const double whole = std::floor(wanted);
  std::vector<int64_t> order(columns);
  for (int64_t row = 0; row < rows; ++row, uniform += columns + 1, keep += columns) {
    const int64_t count = std::min<int64_t>(columns, whole + (uniform[columns] < wanted - whole));
    std::iota(order.begin(), order.end(), 0);
    // NaN sorts last, so that the order is total whatever the draws are.
    auto key = [&](int64_t i) { return std::isnan(uniform[i]) ? INFINITY : uniform[i]; };
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });
    for (int64_t i = 0; i < columns; ++i) keep[order[i]] = i < count;
  }
}

// A plan numbers its blocks in int32; and products of two sizes do not overflow.
bool are_sizes(const Blocks& sizes) {
  return std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return 0 <= size && size <= INT32_MAX; });
}

// A matrix, or the elements of a grid of the given sizes; either has `extra` columns more.
bool is_grid(const Tensor& tensor, const Blocks& sizes, int64_t extra) {
  if (sizes.empty()) return tensor.dim() == 2 && tensor.size(1) >= extra;
  return sizes.size() == 2 && are_sizes(sizes) && tensor.dim() == 1 &&
         tensor.size(0) == flat_size(sizes[0], sizes[1] + extra);
}

std::string described(const Blocks& sizes) {
  if (sizes.empty()) return "two-dimensional";
  std::string text = "flat, of a grid of " + std::to_string(sizes[0]);
  for (std::size_t i = 1; i < sizes.size(); ++i) text += " x " + std::to_string(sizes[i]);
  return text;
}

}  // namespace

Tensor plan(const Tensor& keep, Blocks sizes) {
  STD_TORCH_CHECK(keep.scalar_type() == ScalarType::Bool && is_grid(keep, sizes, 0), "keep must be a bool tensor, ",
                  described(sizes), ", got ", keep.scalar_type(), " of shape ", shape_of(keep));
  const auto data = static_cast<const bool*>(keep.const_data_ptr());
  if (!sizes.empty()) return pack_plans({data, sizes[0], sizes[1], sizes[1] * keep.stride(0), keep.stride(0)}, 1);
  return pack_plans({data, keep.size(0), keep.size(1), keep.stride(0), keep.stride(1)}, 1);
}

std::tuple<Tensor, Tensor, Tensor> draw(const Tensor& uniform, const Tensor& p, bool balanced, Blocks sizes) {
  STD_TORCH_CHECK(p.scalar_type() == ScalarType::Float && p.dim() == 0 && p.is_cpu(),
                  "p must be a 0-dim float32 CPU tensor, got ", p.scalar_type(), " of shape ", shape_of(p));
  return draw_with(*static_cast<const float*>(p.const_data_ptr()), uniform, balanced, sizes);
}

std::tuple<Tensor, Tensor, Tensor> draw_with(float given, const Tensor& uniform_, bool balanced, Blocks sizes) {
  // Several masks are drawn like the rows of one.
  const bool several = sizes.size() == 3 && are_sizes(sizes);
  const int64_t count = several ? sizes[0] : 1;
  if (several) sizes = {count * sizes[1], sizes[2]};
  STD_TORCH_CHECK(uniform_.scalar_type() == ScalarType::Float && is_grid(uniform_, sizes, balanced),
                  "uniform must be a float32 tensor, ", described(sizes), balanced ? ", with a column more than the grid" : "",
                  ", got ", uniform_.scalar_type(), " of shape ", shape_of(uniform_));
  const float p = given > 0 ? std::min(given, 1.0f) : 0.0f;
  const Tensor source = uniform_.is_contiguous() ? uniform_ : torch::stable::contiguous(uniform_);
  const auto uniform = static_cast<const float*>(source.const_data_ptr());

  const bool flat = !sizes.empty();
  const int64_t rows = flat ? sizes[0] : source.size(0), columns = flat ? sizes[1] : source.size(1) - balanced;
  const Blocks shape = flat ? Blocks{flat_size(rows, columns)} : Blocks{rows, columns};
  Tensor keep = new_tensor(shape, ScalarType::Bool);
  auto kept = static_cast<bool*>(keep.mutable_data_ptr());
  if (flat) std::fill(kept + rows * columns, kept + shape[0], false);
  if (balanced)
    keep_balanced(uniform, p, rows, columns, kept);
  else
    for (int64_t i = 0; i < rows * columns; ++i) kept[i] = uniform[i] >= p;

  Tensor scale = new_tensor({}, ScalarType::Float);
  *static_cast<float*>(scale.mutable_data_ptr()) = p < 1 ? static_cast<float>(1 / (1 - static_cast<double>(p))) : 0.0f;
  return {keep, pack_plans({kept, count ? rows / count : 0, columns, columns, 1}, count), scale};
}

}  // namespace sparsedrop
