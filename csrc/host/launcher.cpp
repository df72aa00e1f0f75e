#include "launcher.h"

#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cuda/arguments.h"
#include "launch.h"

namespace py = pybind11;

namespace sparsedrop {
namespace {

// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B and
// CU_TENSOR_MAP_L2_PROMOTION_L2_256B.
enum { kMaxDynamicSharedMemory = 8 };
enum { kSwizzle128 = 3, kPromote128 = 2, kPromote256 = 3 };

// The addresses that a start is given.
enum Slot : unsigned { kA, kB, kC, kBias, kScale1, kScale2, kWalkA, kWalkB, kOut, kWorkspace };

// A kernel of a compiled module, on the current device and for the life of the process.
std::uintptr_t load_kernel(const std::string& code, const std::string& name, int shared_bytes, int device) {
  const OnDevice here(device);
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

TensorMap encode(const Matrix& m, int type, int swizzle, int promotion) {
  TensorMap map;
  const std::uint64_t sizes[] = {m.inner, m.outer}, strides[] = {m.stride};
  const std::uint32_t box[] = {m.box_inner, m.box_outer}, steps[] = {1, 1};
  // The address is replaced at every launch; here any aligned one will do.
  void* address = reinterpret_cast<void*>(std::uintptr_t{4096});
  driver().check(driver().encode(&map, type, 2, address, sizes, strides, box, steps, 0, swizzle, promotion, 0),
                 "describing a matrix");
  return map;
}

// The Hopper kernel's parameters are four matrices and `Arguments`.
Launch hopper_launch(int device, std::uintptr_t kernel, unsigned blocks, unsigned shared_bytes, int type,
                     const std::array<Matrix, 4>& matrices, const Arguments& arguments) {
  Launch launch(device, kernel, {blocks, 1, 1}, kThreads, shared_bytes);
  std::array<TensorMap, 4> maps;
  for (int i = 0; i < 4; ++i) maps[i] = encode(matrices[i], type, kSwizzle128, kPromote256);
  std::size_t at = launch.add(maps);
  const unsigned slots[] = {kA, kB, kC, kC};
  for (int i = 0; i < 4; ++i) launch.map_at(at + i * sizeof(TensorMap), slots[i]);
  at = launch.add(arguments);
  launch.address_at(at + offsetof(Arguments, bias), kBias);
  launch.address_at(at + offsetof(Arguments, scale_1), kScale1);
  launch.address_at(at + offsetof(Arguments, scale_2), kScale2);
  launch.address_at(at + offsetof(Arguments, walk.plan), kWalkA);
  launch.address_at(at + offsetof(Arguments, out.plan), kOut);
  launch.address_at(at + offsetof(Arguments, partials), kWorkspace);
  launch.address_at(at + offsetof(Arguments, flags), kWorkspace, blocks * kTileA * kTileB * sizeof(float));
  launch.ticket_at(at + offsetof(Arguments, ticket));
  launch.overlap();
  return launch;
}

std::size_t hopper_workspace(unsigned blocks) {
  return blocks * kTileA * kTileB * sizeof(float) + (blocks + 2) * sizeof(unsigned long long);
}

Lists lists(const py::tuple& t) {
  return {nullptr, t[0].cast<int>(), t[1].cast<int>(), t[2].cast<int>(), t[3].cast<int>(), t[4].cast<int>()};
}

Matrix matrix(const py::handle& h) {
  const auto t = h.cast<py::tuple>();
  return {t[0].cast<std::uint64_t>(), t[1].cast<std::uint64_t>(), t[2].cast<std::uint64_t>(),
          t[3].cast<std::uint32_t>(), t[4].cast<std::uint32_t>()};
}

// A Triton kernel's parameters: ("address", slot), ("number", slot), ("i32" or "i64", value), or ("map", slot, matrix, type, swizzle).
Launch triton_launch(int device, std::uintptr_t kernel, const std::array<unsigned, 3>& grid, unsigned threads,
                     unsigned shared_bytes, const std::vector<py::tuple>& parameters, bool overlaps) {
  Launch launch(device, kernel, {grid[0], grid[1], grid[2]}, threads, shared_bytes);
  for (const py::tuple& p : parameters) {
    const auto kind = p[0].cast<std::string>();
    if (kind == "address")
      launch.address_at(launch.add(std::uint64_t{0}), p[1].cast<unsigned>());
    else if (kind == "number")
      launch.float_at(launch.add(float{0}), p[1].cast<unsigned>());
    else if (kind == "map")
      launch.map_at(launch.add(encode(matrix(p[2]), p[3].cast<int>(), p[4].cast<int>(), kPromote128)), p[1].cast<unsigned>());
    else if (kind == "i32")
      launch.add(p[1].cast<std::int32_t>());
    else if (kind == "i64")
      launch.add(p[1].cast<std::int64_t>());
    else
      throw std::invalid_argument("a parameter must be address, number, map, i32 or i64, got " + kind);
  }
  if (overlaps) launch.overlap();
  if (!launch.fits_kernel()) throw std::runtime_error("the kernel takes other parameters");
  return launch;
}

py::bytes packed(const std::vector<Launch>& launches, std::int64_t workspace_bytes) {
  std::string bytes(reinterpret_cast<const char*>(&workspace_bytes), sizeof workspace_bytes);
  return bytes.append(reinterpret_cast<const char*>(launches.data()), launches.size() * sizeof(Launch));
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
                       int lines, int together, int panel, int panels, int sections, int rows_per_block) {
             Arguments arguments{};
             arguments.walk = lists(walk);
             arguments.out = lists(out);
             arguments.size_a = sizes[0].cast<int>();
             arguments.size_b = sizes[1].cast<int>();
             arguments.terms = sizes[2].cast<int>();
             arguments.first_row = first_row;
             arguments.rows = rows;
             arguments.lines = lines;
             arguments.together = together;
             arguments.panel = panel;
             arguments.panels = panels;
             arguments.sections = sections;
             arguments.rows_per_block = rows_per_block;
             const std::array<Matrix, 4> matrices{matrix(boxes[0]), matrix(boxes[1]), matrix(boxes[2]),
                                                  matrix(boxes[3])};
             return hopper_launch(device, kernel, blocks, shared_bytes, type, matrices, arguments);
           }),
           py::arg("device"), py::arg("kernel"), py::arg("blocks"), py::arg("shared_bytes"), py::arg("type"), py::arg("boxes"),
           py::arg("walk"), py::arg("out"), py::arg("sizes"), py::arg("first_row"), py::arg("rows"), py::arg("lines"), py::arg("together"), py::arg("panel"), py::arg("panels"), py::arg("sections"),
           py::arg("rows_per_block"))
      .def_static("of_triton", triton_launch, py::arg("device"), py::arg("kernel"), py::arg("grid"), py::arg("threads"),
                  py::arg("shared_bytes"), py::arg("parameters"), py::arg("overlaps") = false)
      .def(
          "__call__",
          [](const Launch& launch, std::uintptr_t stream, const std::vector<std::uintptr_t>& addresses) {
            if (addresses.size() != kWorkspace + 1) throw std::invalid_argument("a launch takes ten addresses");
            // A full queue blocks: other threads, and those who empty it, must go on.
            const py::gil_scoped_release release;
            launch.start(reinterpret_cast<void*>(stream), addresses.data());
          },
          py::arg("stream"), py::arg("addresses"));
  m.def("packed", packed, py::arg("launches"), py::arg("workspace_bytes"), "Launches as the ops' fast calls take them.");
  m.def("hopper_workspace", hopper_workspace, py::arg("blocks"), "Bytes that a launch of the Hopper kernel works in.");
  m.attr("most_rows") = kMostRows;
  m.attr("most_lines") = kMostLines;
  m.attr("panel") = kPanel;
  m.attr("widest_panel") = kWidestPanel;
  m.attr("together") = kTogether;
  m.attr("tile") = py::make_tuple(kTileA, kTileB);
  m.attr("slab") = kSlab;
  m.attr("step") = kStep;
  m.attr("zero_rows") = kZeroRows;
  m.attr("longest") = kLongest;
}

}  // namespace sparsedrop
