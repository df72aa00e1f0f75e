#include "arguments.h"

namespace sparsedrop {

std::string shape_of(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

Tensor new_tensor(const Blocks& shape, ScalarType type) {
  Blocks strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0; step *= std::max<int64_t>(shape[i], 1)) strides[i] = step;
  const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made;
  const auto status = aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), code,
                                               aoti_torch_device_type_cpu(), -1, &made);
  STD_TORCH_CHECK(status == AOTI_TORCH_SUCCESS, "no memory for a tensor of ", step, " elements");
  return Tensor(made);
}

Element element_of(const Tensor& tensor, const char* op, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Element::float32;
    case ScalarType::Double: return Element::float64;
    case ScalarType::BFloat16: return Element::bfloat16;
    case ScalarType::Half: return Element::float16;
    default:
      STD_TORCH_CHECK(false, "sparsedrop::", op, ": ", name, " must be float32, float64, bfloat16 or float16, got ",
                      tensor.scalar_type());
  }
}

Flat flatten_rows(const Tensor& tensor, const char* name) {
  const int64_t rank = tensor.dim();
  STD_TORCH_CHECK(rank >= 1, name, " must have at least one dimension");
  const int64_t columns = tensor.size(rank - 1);
  int64_t rows = 1;
  for (int64_t i = 0; i < rank - 1; ++i) rows *= tensor.size(i);
  int64_t row_stride = columns, next = 0;
  bool uniform = true, first = true;
  for (int64_t i = rank - 2; i >= 0 && rows > 0; --i) {
    if (tensor.size(i) == 1) continue;
    if (first) row_stride = tensor.stride(i);
    uniform = uniform && (first || tensor.stride(i) == next);
    next = tensor.stride(i) * tensor.size(i);
    first = false;
  }
  if (uniform) return {tensor, rows, columns, row_stride, tensor.stride(rank - 1)};
  const int64_t shape[] = {rows, columns};
  Tensor copy = torch::stable::reshape(tensor, {shape, 2});
  return {copy, rows, columns, copy.stride(0), copy.stride(1)};
}

Mask read_mask(const char* name, const OptionalTensor& plan, const OptionalTensor& scale, const Blocks& block, int64_t rows,
               int64_t columns) {
  Mask mask;
  if (!plan) {
    STD_TORCH_CHECK(!scale && block.empty(), "scale_", name, " and block_", name, " need plan_", name, ", got none");
    return mask;
  }
  STD_TORCH_CHECK(scale.has_value(), "plan_", name, " needs scale_", name, ", got none");
  STD_TORCH_CHECK(scale->scalar_type() == ScalarType::Float && scale->dim() == 0 && scale->is_cpu(), "scale_", name,
                  " must be a 0-dim float32 CPU tensor, got ", scale->scalar_type(), " of shape ", shape_of(*scale));
  mask.scale = *static_cast<const float*>(scale->const_data_ptr());
  STD_TORCH_CHECK(block.size() == 2, "block_", name, " must hold 2 sizes, got ", block.size());
  STD_TORCH_CHECK(block[0] >= 16 && block[1] >= 16, "block_", name, " must be at least 16 in both directions, got (",
                  block[0], ", ", block[1], ")");
  const int64_t grid_rows = (rows + block[0] - 1) / block[0], grid_columns = (columns + block[1] - 1) / block[1];
  const PlanLayout at = plan_layout(grid_rows, grid_columns);
  STD_TORCH_CHECK(plan->scalar_type() == ScalarType::Int && plan->dim() == 1 && plan->is_contiguous() && plan->is_cpu(),
                  "plan_", name, " must be a contiguous one-dimensional int32 CPU tensor, got ", plan->scalar_type(),
                  " of shape ", shape_of(*plan));
  STD_TORCH_CHECK(plan->size(0) == at.size, "plan_", name, " has ", plan->size(0), " elements, but a grid of ", grid_rows,
                  " × ", grid_columns, " blocks of (", block[0], ", ", block[1], ") over (", rows, ", ", columns, ") needs ",
                  at.size);
  const auto words = static_cast<const int32_t*>(plan->const_data_ptr());
  mask.present = true;
  mask.block_rows = block[0];
  mask.block_columns = block[1];
  mask.rows = {words + at.row_bits, 2 * ((grid_columns + 63) / 64)};
  mask.columns = {words + at.col_bits, 2 * ((grid_rows + 63) / 64)};
  return mask;
}

int64_t common_block_rows(const Mask& in, const Mask& out) {
  STD_TORCH_CHECK(!in.present || !out.present || in.block_rows == out.block_rows,
                  "block_in and block_out must have equal rows, got ", in.block_rows, " and ", out.block_rows);
  return in.present ? in.block_rows : out.block_rows;
}

}  // namespace sparsedrop
