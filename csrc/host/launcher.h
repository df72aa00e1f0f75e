// Starting the CUDA kernels through the driver that is found at run time: nothing of CUDA is needed to build this.
#pragma once

#include <pybind11/pybind11.h>

namespace sparsedrop {

void bind_launcher(pybind11::module_& m);

}  // namespace sparsedrop
