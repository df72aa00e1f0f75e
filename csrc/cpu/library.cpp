// CPU kernels of the ops whose schemas torch_sparsedrop/ops defines.
#include "../host/layer.h"
#include "arguments.h"

namespace sparsedrop {
namespace {

using Drawn = std::tuple<Tensor, Tensor, Tensor>;

Drawn draw_by_either(const Tensor& uniform, const OptionalTensor& p, double number, bool balanced, const Blocks& grid) {
  return p ? draw(uniform, *p, balanced, grid) : draw_with(static_cast<float>(number), uniform, balanced, grid);
}

Drawn layer_on_cpu(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tensor& uniform,
                   const OptionalTensor& p, double number, bool balanced, bool out, Blocks block, int64_t revision) {
  return layer(draw_by_either, linear, x, weight, bias, uniform, p, number, balanced, out, block);
}

}  // namespace
}  // namespace sparsedrop

STABLE_TORCH_LIBRARY_IMPL(sparsedrop, CPU, m) {
  m.impl("plan", TORCH_BOX(&sparsedrop::plan));
  m.impl("draw", TORCH_BOX(&sparsedrop::draw));
  m.impl("linear", TORCH_BOX(&sparsedrop::linear));
  m.impl("weight_grad", TORCH_BOX(&sparsedrop::weight_grad));
  m.impl("layer", TORCH_BOX(&sparsedrop::layer_on_cpu));
}
