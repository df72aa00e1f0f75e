#include "arguments.h"

namespace sparsedrop {
namespace {

// What a column of ones is expanded from.
const void* one(Element element) {
  static constexpr float single = 1;
  static constexpr double wide = 1;
  static constexpr uint16_t brain = 0x3f80, half = 0x3c00;
  switch (element) {
    case Element::float32: return &single;
    case Element::float64: return &wide;
    case Element::bfloat16: return &brain;
    default: return &half;
  }
}

bool same_leading(const Tensor& grad, const Tensor& x) {
  const auto a = grad.sizes(), b = x.sizes();
  return a.size() == b.size() && std::equal(a.begin(), a.end() - 1, b.begin());
}

}  // namespace

// dW = s_in · s_out · (M_out ⊙ dY)ᵀ (M_in ⊙ X); no X is a column of ones.
Tensor weight_grad(const Tensor& grad, const OptionalTensor& x, const OptionalTensor& plan_in, const OptionalTensor& scale_in,
                   Blocks block_in, const OptionalTensor& plan_out, const OptionalTensor& scale_out, Blocks block_out,
                   int64_t /*revision*/) {
  const Element element = element_of(grad, "weight_grad", "grad");
  STD_TORCH_CHECK(x || !plan_in, "plan_in needs x, got none");
  const Flat output = flatten_rows(grad, "grad"), input = x ? flatten_rows(*x, "x") : Flat{grad, output.rows, 1, 0, 0};
  const void* const from = x ? input.tensor.const_data_ptr() : one(element);
  STD_TORCH_CHECK(!x || same_leading(grad, *x), "grad (..., N) and x (..., K) must agree in '...', got ", shape_of(grad),
                  " and ", shape_of(*x));
  STD_TORCH_CHECK(!x || grad.scalar_type() == x->scalar_type(), "grad must have the dtype of x, ", x->scalar_type(),
                  ", got ", grad.scalar_type());
  const Mask in = read_mask("in", plan_in, scale_in, block_in, input.rows, input.columns);
  const Mask out = read_mask("out", plan_out, scale_out, block_out, output.rows, output.columns);
  const int64_t block_rows = common_block_rows(in, out);

  Tensor result = new_tensor({output.columns, input.columns}, grad.scalar_type());

  const Dimension steps = dimension(input.rows, block_rows);
  const Side columns{dimension(output.columns, out.block_columns), output.tensor.const_data_ptr(), output.column_stride,
                     output.row_stride, out.columns, {}, input.columns, 0};
  if (!x && columns.stride == 1) {
    masked_sum(element, columns, steps, result.mutable_data_ptr(), out.scale);
    return result;
  }
  MaskedMatmul matmul{};
  matmul.element = element;
  matmul.steps = steps;
  matmul.rows = {dimension(input.columns, in.block_columns), from, input.column_stride, input.row_stride, in.columns, {}, 1, 0};
  matmul.columns = columns;
  matmul.out = result.mutable_data_ptr();
  matmul.scale_in = in.scale;
  matmul.scale_out = out.scale;
  masked_matmul(matmul);
  return result;
}

}  // namespace sparsedrop
