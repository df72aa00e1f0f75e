// Which instruction sets are compiled in, which this CPU has, and which is used.
#pragma once

namespace sparsedrop {

struct Isa {
  const char* name;
  bool supported;  // by the CPU that runs this
};

struct IsaList {
  Isa at[5];
  int count;
  int chosen;  // the best, or what the environment variable SPARSEDROP_CPU_ISA names if it can run here
};

// Plainest first.
IsaList list_isas();

}  // namespace sparsedrop
