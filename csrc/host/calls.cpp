// The ops on CUDA for calls like ones made before: their launches are looked up and started, and Python has no part in it.
// What is seen for the first time goes to Python ("first_…"), which also says how the next such call is to be started.
#include <dlfcn.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "known.h"
#include "launch.h"
#include "layer.h"
#include "plan_layout.h"

namespace sparsedrop {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

std::uintptr_t address(const Tensor& tensor) { return reinterpret_cast<std::uintptr_t>(tensor.data_ptr()); }
std::uintptr_t address(const OptionalTensor& tensor) { return tensor ? address(*tensor) : 0; }

// In the place of an address.
std::uintptr_t as_word(float number) {
  std::uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return bits;
}

// A new contiguous tensor beside `like`; none where there is no memory, which Python says in its own words.
OptionalTensor new_tensor(const Sizes& shape, int32_t type, const Tensor& like) {
  Sizes strides(shape.size());
  int64_t step = 1;
  for (std::size_t i = shape.size(); i-- > 0; step *= shape[i]) strides[i] = step;
  AtenTensorHandle made;
  const auto status = aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), type,
                                               device_type(like), device(like), &made);
  if (status != AOTI_TORCH_SUCCESS) return std::nullopt;
  return Tensor(made);
}

void* current_stream(int device) {
  // In torch's CUDA part, which need not be there.
  static const auto ask = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    void* found = dlsym(library ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream");
    STD_TORCH_CHECK(found, "torch has no aoti_torch_get_current_cuda_stream");
    return reinterpret_cast<AOTITorchError (*)(int32_t, void**)>(found);
  }();
  void* stream;
  TORCH_ERROR_CODE_CHECK(ask(device, &stream));
  return stream;
}

// As launcher.cpp numbers them; the last one is the workspace's.
using Addresses = std::array<std::uintptr_t, 10>;

// False where there is no memory to work in.
bool start(const Known& known, const Tensor& result, Addresses addresses) {
  OptionalTensor workspace;
  if (known.workspace_bytes > 0) {
    workspace = new_tensor({known.workspace_bytes}, aoti_torch_dtype_uint8(), result);
    if (!workspace) return false;
    addresses.back() = address(*workspace);
  }
  void* stream = current_stream(device(result));
  for (const Launch& launch : known.launches) launch.start(stream, addresses.data());
  return true;
}

// A call in Python's hands: its results, and behind them what `Table::add` takes; or alone, why there are none. An exception
// would lose its text on the way through the C interface.
template <std::size_t Count>
std::vector<Tensor> first(const char* op, std::array<StableIValue, Count> arguments, Key&& key) {
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", arguments.data(), TORCH_ABI_VERSION));
  auto made = to<std::vector<Tensor>>(arguments[0]);
  const Tensor last = made.back();
  made.pop_back();
  if (made.empty()) throw std::runtime_error({static_cast<const char*>(last.const_data_ptr()), std::size_t(last.numel())});
  table().add(std::move(key), last);
  return made;
}

enum Op : int64_t { kLinear, kWeightGrad, kDraw, kActivate, kActivateGrad };

// Whether float32 products may use TF32: torch's setting, which only Python can ask for. Other dtypes do not depend on it.
bool tf32(const Tensor& operand) {
  if (dtype(operand) != aoti_torch_dtype_float32()) return false;
  std::array<StableIValue, 1> answer{};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("sparsedrop::tf32", "", answer.data(), TORCH_ABI_VERSION));
  return to<bool>(answer[0]);
}

Key begin(Op op) {
  Key key;
  key.reserve(96);
  key.push_back(op);
  return key;
}

Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& plan_in,
              const OptionalTensor& scale_in, Sizes block_in, const OptionalTensor& plan_out,
              const OptionalTensor& scale_out, Sizes block_out, int64_t revision) {
  Key key = begin(kLinear);
  key.push_back(tf32(x));
  for (const Tensor* tensor : {&x, &weight}) note(key, *tensor);
  for (const OptionalTensor* tensor : {&bias, &plan_in, &scale_in, &plan_out, &scale_out}) note(key, *tensor);
  note(key, block_in);
  note(key, block_out);
  if (const auto known = table().find(key)) {
    Sizes shape(x.sizes().begin(), x.sizes().end());
    shape.back() = weight.size(0);
    const OptionalTensor y = new_tensor(shape, dtype(x), x);
    if (y && start(*known, *y, {address(x), address(weight), address(*y), address(bias), address(scale_in),
                                address(scale_out), address(plan_in), 0, address(plan_out), 0}))
      return *y;
  }
  const std::array arguments{from(x),        from(weight),   from(bias),      from(plan_in),   from(scale_in),
                             from(block_in), from(plan_out), from(scale_out), from(block_out), from(revision)};
  return first("sparsedrop::first_linear", arguments, std::move(key))[0];
}

// No x is a column of ones.
Tensor weight_grad(const Tensor& grad, const OptionalTensor& x, const OptionalTensor& plan_in, const OptionalTensor& scale_in,
                   Sizes block_in, const OptionalTensor& plan_out, const OptionalTensor& scale_out, Sizes block_out,
                   int64_t revision) {
  Key key = begin(kWeightGrad);
  key.push_back(tf32(grad));
  note(key, grad);
  for (const OptionalTensor* tensor : {&x, &plan_in, &scale_in, &plan_out, &scale_out}) note(key, *tensor);
  note(key, block_in);
  note(key, block_out);
  if (const auto known = table().find(key)) {
    const int64_t n = grad.sizes().back(), k = x ? x->sizes().back() : 1;
    const OptionalTensor dw = new_tensor({n, k}, dtype(grad), grad);
    // As `_x_is_a` says in matmul.py.
    const bool x_is_a = !plan_out && (plan_in || k > n);
    const std::uintptr_t a = x_is_a ? address(x) : address(grad), b = x_is_a ? address(grad) : address(x);
    const OptionalTensor& walk_a = x_is_a ? plan_in : plan_out;
    if (dw && start(*known, *dw, {a, b, address(*dw), 0, address(scale_in), address(scale_out),
                                  address(walk_a), x_is_a ? 0 : address(plan_in), 0, 0}))
      return *dw;
  }
  const std::array arguments{from(grad),     from(x),         from(plan_in),   from(scale_in), from(block_in),
                             from(plan_out), from(scale_out), from(block_out), from(revision)};
  return first("sparsedrop::first_weight_grad", arguments, std::move(key))[0];
}

using Drawn = std::tuple<Tensor, Tensor, Tensor>;

// p is a tensor, or else the number.
Drawn draw_by_either(const Tensor& uniform, const OptionalTensor& p, double number, bool balanced, const Sizes& grid) {
  Key key = begin(kDraw);
  key.push_back(balanced);
  note(key, uniform);
  note(key, p);
  note(key, grid);
  if (const auto known = table().find(key)) {
    const bool flat = !grid.empty();
    const int64_t count = grid.size() == 3 ? grid[0] : 1;
    const int64_t rows = flat ? grid[grid.size() - 2] : uniform.size(0), cols = flat ? grid.back() : uniform.size(1) - balanced;
    const Sizes shape = flat ? Sizes{flat_size(count * rows, cols)} : Sizes{rows, cols};
    const OptionalTensor keep = new_tensor(shape, aoti_torch_dtype_bool(), uniform);
    const OptionalTensor plan = new_tensor({count * plan_layout(rows, cols).size}, aoti_torch_dtype_int32(), uniform);
    const OptionalTensor scale = new_tensor({}, aoti_torch_dtype_float32(), uniform);
    const std::uintptr_t given = p ? address(*p) : as_word(static_cast<float>(number));
    if (keep && plan && scale &&
        start(*known, *scale, {address(uniform), given, address(*keep), address(*plan), address(*scale)}))
      return {*keep, *plan, *scale};
  }
  const std::array arguments{from(uniform), from(p), from(number), from(balanced), from(grid)};
  const auto made = first("sparsedrop::first_draw", arguments, std::move(key));
  return {made[0], made[1], made[2]};
}

// The addresses are in the order that activate.py has.
Tensor activate(const Tensor& x, const OptionalTensor& bias, int64_t function, const Tensor& plan, Sizes block,
                int64_t revision) {
  Key key = begin(kActivate);
  key.push_back(function);
  note(key, x);
  note(key, bias);
  note(key, plan);
  note(key, block);
  if (const auto known = table().find(key)) {
    const OptionalTensor y = new_tensor({x.sizes().begin(), x.sizes().end()}, dtype(x), x);
    if (y && start(*known, *y, {address(x), 0, address(*y), address(bias), 0, address(plan)})) return *y;
  }
  const std::array arguments{from(x), from(bias), from(function), from(plan), from(block), from(revision)};
  return first("sparsedrop::first_activate", arguments, std::move(key))[0];
}

std::tuple<Tensor, Tensor> activate_grad(const Tensor& grad, const Tensor& x, const OptionalTensor& bias, int64_t function,
                                         const Tensor& plan, Sizes block, int64_t revision) {
  Key key = begin(kActivateGrad);
  key.push_back(function);
  note(key, grad);
  note(key, x);
  note(key, bias);
  note(key, plan);
  note(key, block);
  if (const auto known = table().find(key)) {
    const OptionalTensor dx = new_tensor({x.sizes().begin(), x.sizes().end()}, dtype(x), x);
    const OptionalTensor db = new_tensor({bias ? bias->size(0) : 0}, dtype(bias ? *bias : x), x);
    if (dx && db &&
        start(*known, *dx, {address(x), address(grad), address(*dx), address(bias), address(*db), address(plan)}))
      return {*dx, *db};
  }
  const std::array arguments{from(grad), from(x),     from(bias),    from(function),
                             from(plan), from(block), from(revision)};
  const auto made = first("sparsedrop::first_activate_grad", arguments, std::move(key));
  return {made[0], made[1]};
}

Drawn draw(const Tensor& uniform, const Tensor& p, bool balanced, Sizes grid) {
  return draw_by_either(uniform, p, 0, balanced, grid);
}

Drawn layer_on_gpu(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tensor& uniform,
                   const OptionalTensor& p, double number, bool balanced, bool out, Sizes block, int64_t revision) {
  return layer(draw_by_either, linear, x, weight, bias, uniform, p, number, balanced, out, block);
}

void forget() { table().forget(); }

}  // namespace
}  // namespace sparsedrop

STABLE_TORCH_LIBRARY_IMPL(sparsedrop, CUDA, m) {
  m.impl("linear", TORCH_BOX(&sparsedrop::linear));
  m.impl("weight_grad", TORCH_BOX(&sparsedrop::weight_grad));
  m.impl("draw", TORCH_BOX(&sparsedrop::draw));
  m.impl("activate", TORCH_BOX(&sparsedrop::activate));
  m.impl("activate_grad", TORCH_BOX(&sparsedrop::activate_grad));
  m.impl("layer", TORCH_BOX(&sparsedrop::layer_on_gpu));
}

STABLE_TORCH_LIBRARY_IMPL(sparsedrop, CompositeExplicitAutograd, m) { m.impl("forget", TORCH_BOX(&sparsedrop::forget)); }
