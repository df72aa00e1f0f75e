// What Python asks of the native part without torch: what was built, and what runs here.
#include <pybind11/pybind11.h>

#include "../cpu/isa.h"
#include "launcher.h"
#include "plan_layout.h"

#define SPARSEDROP_TEXT_(x) #x
#define SPARSEDROP_TEXT(x) SPARSEDROP_TEXT_(x)

namespace py = pybind11;

namespace {

py::dict cpu() {
  const sparsedrop::IsaList list = sparsedrop::list_isas();
  py::list compiled, supported;
  for (int i = 0; i < list.count; ++i) {
    compiled.append(list.at[i].name);
    if (list.at[i].supported) supported.append(list.at[i].name);
  }
  py::dict result;
  result["compiled"] = compiled;
  result["supported"] = supported;
  result["chosen"] = list.at[list.chosen].name;
  return result;
}

py::tuple layout(long long rows, long long columns) {
  const sparsedrop::PlanLayout at = sparsedrop::plan_layout(rows, columns);
  return py::make_tuple(at.row_bits, at.col_bits, at.row_count, at.col_count, at.row_order, at.col_order, at.row_index,
                        at.col_index, at.size);
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.attr("version") = SPARSEDROP_TEXT(SPARSEDROP_VERSION);
  m.attr("compiler") = __VERSION__;
  m.def("cpu", cpu, "Instruction sets: compiled in, supported by this CPU, and the one in use.");
  m.def("plan_layout", layout, py::arg("rows"), py::arg("cols"), "The offsets of a packed plan as C++ sees them.");
  sparsedrop::bind_launcher(m);
}
