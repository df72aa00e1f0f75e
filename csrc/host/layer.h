// A layer's whole forward in one call: plan and product. For eager mode, where every call from Python costs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

namespace sparsedrop {

// Elements of a flat grid; never one: see flat_size in torch_sparsedrop/ops/checks.py.
inline int64_t flat_size(int64_t rows, int64_t columns) {
  const int64_t size = rows * columns;
  return columns > 1 ? size : std::max<int64_t>(size, 2);
}

// With what a device has for it, of which `draw` takes p as a tensor or else as a number: Y, and the plan and the scale of its
// mask, which lies over the output if `out`, else over the input.
template <class Draw, class Linear>
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> layer(
    const Draw& draw, const Linear& linear, const torch::stable::Tensor& x, const torch::stable::Tensor& weight,
    const std::optional<torch::stable::Tensor>& bias, const torch::stable::Tensor& uniform,
    const std::optional<torch::stable::Tensor>& p, double number, bool balanced, bool out, const std::vector<int64_t>& block) {
  STD_TORCH_CHECK(x.dim() >= 1 && weight.dim() == 2 && x.size(x.dim() - 1) == weight.size(1), "x and weight do not fit");
  STD_TORCH_CHECK(uniform.is_cpu() == x.is_cpu() && uniform.get_device_index() == x.get_device_index(),
                  "uniform must be on x's device");
  STD_TORCH_CHECK(block.size() == 2 && block[0] >= 16 && block[1] >= 16, "block must be two sizes of at least 16");
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) rows *= x.size(i);
  const std::vector<int64_t> grid{(rows + block[0] - 1) / block[0], (weight.size(out ? 0 : 1) + block[1] - 1) / block[1]};
  const auto [keep, plan, scale] = draw(uniform, p, number, balanced, grid);
  const std::optional<torch::stable::Tensor> none;
  const auto y = out ? linear(x, weight, bias, none, none, {}, plan, scale, block, 0)
                     : linear(x, weight, bias, plan, scale, block, none, none, {}, 0);
  return {y, plan, scale};
}

}  // namespace sparsedrop
