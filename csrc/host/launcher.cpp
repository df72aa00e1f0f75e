#include "launcher.h"

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>

#include "../cuda/arguments.h"

namespace py = pybind11;

namespace sparsedrop {
namespace {

// The driver's own types and numbers, as its interface fixes them: CUtensorMap,
// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_TENSOR_MAP_SWIZZLE_128B and CU_TENSOR_MAP_L2_PROMOTION_L2_256B.
struct alignas(64) TensorMap {
  std::uint64_t words[16];
};

enum { kMaxDynamicSharedMemory = 8 };
enum { kSwizzle128 = 3, kPromote256 = 3 };

struct Driver {
  int (*error_string)(int, const char**);
  int (*device)(int*, int);
  int (*context)(void**);
  int (*set_context)(void*);
  int (*primary_context)(void**, int);
  int (*module_load)(void**, const void*);
  int (*module_function)(void**, void*, const char*);
  int (*function_attribute)(void*, int, int);
  int (*encode)(TensorMap*, int, std::uint32_t, void*, const std::uint64_t*, const std::uint64_t*,
                const std::uint32_t*, const std::uint32_t*, int, int, int, int);
  int (*replace_address)(TensorMap*, void*);
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);

  void check(int code, const char* what) const {
    if (code == 0) return;
    const char* text = nullptr;
    error_string(code, &text);
    throw std::runtime_error(std::string(what) + ": " + (text ? text : "unknown error") + " (" + std::to_string(code) +
                             ")");
  }
};

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) throw std::runtime_error(std::string("libcuda.so.1 has no ") + name);
}

const Driver& driver() {
  static const Driver found = [] {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) throw std::runtime_error(std::string("no CUDA driver: ") + dlerror());
    Driver d;
    find(library, "cuGetErrorString", d.error_string);
    find(library, "cuDeviceGet", d.device);
    find(library, "cuCtxGetCurrent", d.context);
    find(library, "cuCtxSetCurrent", d.set_context);
    find(library, "cuDevicePrimaryCtxRetain", d.primary_context);
    find(library, "cuModuleLoadData", d.module_load);
    find(library, "cuModuleGetFunction", d.module_function);
    find(library, "cuFuncSetAttribute", d.function_attribute);
    find(library, "cuTensorMapEncodeTiled", d.encode);
    find(library, "cuTensorMapReplaceAddress", d.replace_address);
    find(library, "cuLaunchKernel", d.launch);
    return d;
  }();
  return found;
}

// A thread whose first work on a GPU is ours has no context yet: it gets the one that PyTorch uses.
void ensure_context(int device) {
  void* context = nullptr;
  driver().check(driver().context(&context), "asking for the context");
  if (context) return;
  int handle = 0;
  driver().check(driver().device(&handle, device), "asking for the device");
  driver().check(driver().primary_context(&context, handle), "asking for the device's context");
  driver().check(driver().set_context(context), "setting the context");
}

// A kernel of a compiled module, on the current device and for the life of the process.
std::uintptr_t load_kernel(const std::string& code, const std::string& name, int shared_bytes, int device) {
  ensure_context(device);
  void *module = nullptr, *function = nullptr;
  driver().check(driver().module_load(&module, code.data()), "loading a kernel");
  driver().check(driver().module_function(&function, module, name.c_str()), "finding a kernel");
  driver().check(driver().function_attribute(function, kMaxDynamicSharedMemory, shared_bytes), "reserving memory");
  return reinterpret_cast<std::uintptr_t>(function);
}

// A matrix in memory and the box that one copy moves, both (inner, outer); the stride in bytes.
struct Matrix {
  std::uint64_t inner, outer, stride;
  std::uint32_t box_inner, box_outer;
};

TensorMap encode(const Matrix& m, int type) {
  TensorMap map;
  const std::uint64_t sizes[] = {m.inner, m.outer}, strides[] = {m.stride};
  const std::uint32_t box[] = {m.box_inner, m.box_outer}, steps[] = {1, 1};
  // The address is replaced at every launch; here any aligned one will do.
  void* address = reinterpret_cast<void*>(std::uintptr_t{4096});
  driver().check(driver().encode(&map, type, 2, address, sizes, strides, box, steps, 0, kSwizzle128, kPromote256, 0),
                 "describing a matrix");
  return map;
}

void* pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

// Starts anywhere, so that what other processes or earlier runs left in memory is no ticket of ours.
unsigned long long next_ticket() {
  static std::atomic<unsigned long long> next{[] {
    std::random_device random;
    return (static_cast<unsigned long long>(random()) << 32 | random()) | 1;
  }()};
  return next.fetch_add(2, std::memory_order_relaxed);
}

// A launch, ready but for its addresses.
class Launch {
 public:
  Launch(int device, std::uintptr_t kernel, unsigned blocks, unsigned shared_bytes, int type,
         const std::array<Matrix, 4>& matrices, const Arguments& arguments)
      : device_(device), kernel_(kernel), blocks_(blocks), shared_bytes_(shared_bytes), arguments_(arguments) {
    for (int i = 0; i < 4; ++i) maps_[i] = encode(matrices[i], type);
  }

  void operator()(std::uintptr_t stream, std::uintptr_t a, std::uintptr_t b, std::uintptr_t c, std::uintptr_t bias,
                  std::uintptr_t scale_1, std::uintptr_t scale_2, std::uintptr_t walk, std::uintptr_t out,
                  std::uintptr_t workspace) const {
    ensure_context(device_);
    std::array<TensorMap, 4> maps = maps_;
    const std::uintptr_t addresses[] = {a, b, c, c};
    for (int i = 0; i < 4; ++i)
      driver().check(driver().replace_address(&maps[i], pointer(addresses[i])), "describing a matrix");
    Arguments arguments = arguments_;
    arguments.bias = pointer(bias);
    arguments.scale_1 = static_cast<const float*>(pointer(scale_1));
    arguments.scale_2 = static_cast<const float*>(pointer(scale_2));
    arguments.walk.plan = static_cast<const int*>(pointer(walk));
    arguments.out.plan = static_cast<const int*>(pointer(out));
    arguments.partials = static_cast<float*>(pointer(workspace));
    arguments.flags = reinterpret_cast<unsigned long long*>(arguments.partials + blocks_ * kTileA * kTileB);
    arguments.ticket = next_ticket();
    void* parameters[] = {&maps, &arguments};
    driver().check(driver().launch(pointer(kernel_), blocks_, 1, 1, kThreads, 1, 1, shared_bytes_, pointer(stream),
                                   parameters, nullptr),
                   "starting a kernel");
  }

  std::size_t workspace_bytes() const {
    return blocks_ * (kTileA * kTileB * sizeof(float) + sizeof(unsigned long long));
  }

 private:
  int device_;
  std::uintptr_t kernel_;
  unsigned blocks_, shared_bytes_;
  std::array<TensorMap, 4> maps_;
  Arguments arguments_;
};

Lists lists(const py::tuple& t) {
  return {nullptr, t[0].cast<int>(), t[1].cast<int>(), t[2].cast<int>(), t[3].cast<int>(), t[4].cast<int>()};
}

Matrix matrix(const py::handle& h) {
  const auto t = h.cast<py::tuple>();
  return {t[0].cast<std::uint64_t>(), t[1].cast<std::uint64_t>(), t[2].cast<std::uint64_t>(),
          t[3].cast<std::uint32_t>(), t[4].cast<std::uint32_t>()};
}

}  // namespace

void bind_launcher(py::module_& m) {
  m.def(
      "load_kernel",
      [](const py::bytes& binary, const std::string& name, int shared_bytes, int device) {
        const std::string code = binary;
        const py::gil_scoped_release release;
        return load_kernel(code, name, shared_bytes, device);
      },
      py::arg("binary"), py::arg("name"), py::arg("shared_bytes"), py::arg("device"),
      "A kernel's handle on a device, which must be the current one.");
  py::class_<Launch>(m, "Launch")
      .def(py::init([](int device, std::uintptr_t kernel, unsigned blocks, unsigned shared_bytes, int type, const py::tuple& boxes,
                       const py::tuple& walk, const py::tuple& out, const py::tuple& sizes, int first_row, int rows,
                       int lines, int panels, int rows_per_block) {
             Arguments arguments{};
             arguments.walk = lists(walk);
             arguments.out = lists(out);
             arguments.size_a = sizes[0].cast<int>();
             arguments.size_b = sizes[1].cast<int>();
             arguments.terms = sizes[2].cast<int>();
             arguments.first_row = first_row;
             arguments.rows = rows;
             arguments.lines = lines;
             arguments.panels = panels;
             arguments.rows_per_block = rows_per_block;
             const std::array<Matrix, 4> matrices{matrix(boxes[0]), matrix(boxes[1]), matrix(boxes[2]),
                                                  matrix(boxes[3])};
             return Launch(device, kernel, blocks, shared_bytes, type, matrices, arguments);
           }),
           py::arg("device"), py::arg("kernel"), py::arg("blocks"), py::arg("shared_bytes"), py::arg("type"), py::arg("boxes"),
           py::arg("walk"), py::arg("out"), py::arg("sizes"), py::arg("first_row"), py::arg("rows"), py::arg("lines"), py::arg("panels"),
           py::arg("rows_per_block"))
      .def("__call__", &Launch::operator(), py::arg("stream"), py::arg("a"), py::arg("b"), py::arg("c"),
           py::arg("bias"), py::arg("scale_1"), py::arg("scale_2"), py::arg("walk"), py::arg("out"),
           py::arg("workspace"),
           // A full queue blocks: other threads, and those who empty it, must go on.
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("workspace_bytes", &Launch::workspace_bytes);
  m.attr("most_rows") = kMostRows;
  m.attr("most_lines") = kMostLines;
  m.attr("panel") = kPanel;
  m.attr("tile") = py::make_tuple(kTileA, kTileB);
  m.attr("slab") = kSlab;
  m.attr("step") = kStep;
  m.attr("zero_rows") = kZeroRows;
  m.attr("longest") = kLongest;
}

}  // namespace sparsedrop
