#include "isa.h"
#include "kernels.h"

namespace sparsedrop {

#define SPARSEDROP_DECLARE(isa) \
  namespace isa {               \
  extern const Kernels table[4]; \
  }
SPARSEDROP_DECLARE(baseline)
#if defined(__x86_64__)
SPARSEDROP_DECLARE(avx2)
SPARSEDROP_DECLARE(avx512)
SPARSEDROP_DECLARE(avx512_bf16)
#if defined(SPARSEDROP_AMX)
SPARSEDROP_DECLARE(amx_bf16)
#endif
#endif
#undef SPARSEDROP_DECLARE

const Kernels& kernels_for(Element element) {
  // In the order of list_isas.
  static const Kernels* const tables[] = {
      baseline::table,
#if defined(__x86_64__)
      avx2::table,     avx512::table, avx512_bf16::table,
#if defined(SPARSEDROP_AMX)
      amx_bf16::table,
#endif
#endif
  };
  static const Kernels* const table = tables[list_isas().chosen];
  return table[static_cast<int>(element)];
}

}  // namespace sparsedrop
