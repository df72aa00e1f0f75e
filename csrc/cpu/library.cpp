// CPU kernels of the ops whose schemas torch_sparsedrop/ops defines.
#include "arguments.h"

STABLE_TORCH_LIBRARY_IMPL(sparsedrop, CPU, m) {
  m.impl("plan", TORCH_BOX(&sparsedrop::plan));
  m.impl("draw", TORCH_BOX(&sparsedrop::draw));
  m.impl("linear", TORCH_BOX(&sparsedrop::linear));
  m.impl("weight_grad", TORCH_BOX(&sparsedrop::weight_grad));
}
