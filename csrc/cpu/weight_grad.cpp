#include "arguments.h"

namespace sparsedrop {

// dW = s_in · s_out · (M_out ⊙ dY)ᵀ (M_in ⊙ X). The rows of the product are the columns of X: they
// lie side by side in X and in dW, so that neither needs transposing.
Tensor weight_grad(const Tensor& grad, const Tensor& x, const OptionalTensor& plan_in, const OptionalTensor& scale_in,
                   Blocks block_in, const OptionalTensor& plan_out, const OptionalTensor& scale_out, Blocks block_out,
                   int64_t /*revision*/) {
  const Element element = element_of(x, "weight_grad");
  const Flat input = flatten_rows(x, "x"), output = flatten_rows(grad, "grad");
  STD_TORCH_CHECK(input.rows == output.rows, "grad must have as many rows as x, ", input.rows, ", got ", output.rows);
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "grad must have the dtype of x, ", x.scalar_type(), ", got ",
                  grad.scalar_type());
  const Mask in = read_mask("in", plan_in, scale_in, block_in, input.rows, input.columns);
  const Mask out = read_mask("out", plan_out, scale_out, block_out, output.rows, output.columns);
  const int64_t block_rows = common_block_rows(in, out);

  Tensor result = new_tensor({output.columns, input.columns}, x.scalar_type());

  MaskedMatmul matmul{};
  matmul.element = element;
  matmul.rows = dimension(input.columns, in.block_columns);
  matmul.columns = dimension(output.columns, out.block_columns);
  matmul.steps = dimension(input.rows, block_rows);
  matmul.a = {input.tensor.const_data_ptr(), input.column_stride, input.row_stride};
  matmul.b = {output.tensor.const_data_ptr(), output.column_stride, output.row_stride};
  matmul.a_keep = in.columns;
  matmul.b_keep = out.columns;
  matmul.out = result.mutable_data_ptr();
  matmul.out_row_stride = 1;
  matmul.out_column_stride = input.columns;
  matmul.scale_in = in.scale;
  matmul.scale_out = out.scale;
  masked_matmul(matmul);
  return result;
}

}  // namespace sparsedrop
