// The arguments of the ops, checked and reduced to what the driver needs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "masked_matmul.h"
#include "plan_layout.h"

namespace sparsedrop {

using torch::stable::Tensor;
using torch::headeronly::ScalarType;
using OptionalTensor = std::optional<Tensor>;
using Blocks = std::vector<int64_t>;

std::string shape_of(const Tensor&);

// A new contiguous tensor; torch::stable::new_empty boxes its arguments for the dispatcher, which takes longer.
Tensor new_tensor(const Blocks& shape, ScalarType);

Element element_of(const Tensor&, const char* op, const char* name);

// A tensor of any rank as the rows that F.linear sees.
struct Flat {
  Tensor tensor;  // keeps the data alive; a copy where no single stride leads from row to row
  int64_t rows, columns, row_stride, column_stride;
};
Flat flatten_rows(const Tensor&, const char* name);

struct Mask {
  bool present = false;
  int64_t block_rows = 0, block_columns = 0;
  Bits rows, columns;  // of the row blocks, and of the column blocks
  float scale = 1;
};

// `name` is "in" or "out": the arguments are plan_in, scale_in and block_in, or those of out.
Mask read_mask(const char* name, const OptionalTensor& plan, const OptionalTensor& scale, const Blocks& block, int64_t rows,
               int64_t columns);

// Without a mask (block 0) there is one block.
inline Dimension dimension(int64_t size, int64_t block) { return {size, block ? block : std::max<int64_t>(size, 1)}; }

// The rows of both masks' blocks, which must agree; 0 without a mask.
int64_t common_block_rows(const Mask& in, const Mask& out);

Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& plan_in,
              const OptionalTensor& scale_in, Blocks block_in, const OptionalTensor& plan_out, const OptionalTensor& scale_out,
              Blocks block_out, int64_t revision);
Tensor weight_grad(const Tensor& grad, const OptionalTensor& x, const OptionalTensor& plan_in, const OptionalTensor& scale_in,
                   Blocks block_in, const OptionalTensor& plan_out, const OptionalTensor& scale_out, Blocks block_out,
                   int64_t revision);
// `sizes`: rows and columns of a grid that comes flat.
Tensor plan(const Tensor& keep, Blocks sizes);
std::tuple<Tensor, Tensor, Tensor> draw(const Tensor& uniform, const Tensor& p, bool balanced, Blocks sizes);
std::tuple<Tensor, Tensor, Tensor> draw_with(float p, const Tensor& uniform, bool balanced, Blocks sizes);

}  // namespace sparsedrop
