#include "arguments.h"

namespace sparsedrop {

// Y = s_out · M_out ⊙ (s_in · (M_in ⊙ X) Wᵀ + b)
Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& plan_in,
              const OptionalTensor& scale_in, Blocks block_in, const OptionalTensor& plan_out, const OptionalTensor& scale_out,
              Blocks block_out, int64_t /*revision*/) {
  const Element element = element_of(x, "linear", "x");
  const Flat rows = flatten_rows(x, "x");
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == rows.columns, "weight must have shape (out_features, ",
                  rows.columns, ") for x of shape ", shape_of(x), ", got ", shape_of(weight));
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "weight must have the dtype of x, ", x.scalar_type(), ", got ",
                  weight.scalar_type());
  const int64_t columns = weight.size(0);
  if (bias)
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == columns && bias->scalar_type() == x.scalar_type(),
                    "bias must have shape (", columns, ",) and dtype ", x.scalar_type(), ", got ", shape_of(*bias), " and ",
                    bias->scalar_type());
  const Mask in = read_mask("in", plan_in, scale_in, block_in, rows.rows, rows.columns);
  const Mask out = read_mask("out", plan_out, scale_out, block_out, rows.rows, columns);
  const int64_t block_rows = common_block_rows(in, out);

  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = columns;
  Tensor y = new_tensor(shape, x.scalar_type());

  MaskedMatmul matmul{};
  matmul.element = element;
  matmul.steps = dimension(rows.columns, in.block_columns);
  matmul.rows = {dimension(rows.rows, block_rows), rows.tensor.const_data_ptr(), rows.row_stride, rows.column_stride,
                 in.rows, out.rows, columns, 0};
  matmul.columns = {dimension(columns, out.block_columns), weight.const_data_ptr(), weight.stride(0), weight.stride(1),
                    {}, out.columns, 1, bias ? bias->stride(0) : 0};
  matmul.out = y.mutable_data_ptr();
  matmul.bias = bias ? bias->const_data_ptr() : nullptr;
  matmul.scale_in = in.scale;
  matmul.scale_out = out.scale;
  masked_matmul(matmul);
  return y;
}

}  // namespace sparsedrop
