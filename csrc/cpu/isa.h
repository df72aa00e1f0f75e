// Which instruction sets are compiled in, which this CPU has, and which is used.
#pragma once

#include "kernels.h"

namespace sparsedrop {

struct Isa {
  const char* name;
  const Kernels* table;  // one for each Element
  bool supported;        // by the CPU that runs this
};

constexpr int isa_limit = 4;

struct IsaList {
  Isa at[isa_limit];
  int count;
  int chosen;               // index of the one in use
  const char* requested;    // SPARSEDROP_CPU_ISA where it names none that can run here, else null
};

// Plainest first. Reads the environment anew at each call.
IsaList list_isas();

}  // namespace sparsedrop
