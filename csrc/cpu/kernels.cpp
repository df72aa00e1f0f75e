// The kernels of one instruction set. The build compiles this file once for each, with
// SPARSEDROP_ISA set to its name and the compiler's flags to its instructions.
#include "kernels.h"

#include "amx.h"
#include "microkernel.h"
#include "pack.h"
#include "sum.h"

namespace sparsedrop {
namespace {

template <class Scheme>
constexpr Kernels kernels() {
  using T = typename Scheme::Element;
  return {lanes_of<T>,
          Scheme::max_rows,
          Scheme::pair,
          sizeof(T),
          sizeof(typename Scheme::Group),
          sizeof(Sum<T>),
          Scheme::in_place,
          Scheme::columns_by_row,
          pack<Scheme>,
          pack_columns<Scheme>,
          multiply<Scheme>,
          finish<T>,
          add_steps<T>};
}

#if defined(__AMX_BF16__)
using BFloat16Scheme = Tiled;
#elif defined(__AVX512BF16__)
using BFloat16Scheme = Paired;
#else
using BFloat16Scheme = Single<bfloat16>;
#endif

}  // namespace

namespace SPARSEDROP_ISA {
extern const Kernels table[4] = {kernels<Single<float>>(), kernels<Single<double>>(), kernels<BFloat16Scheme>(),
                                 kernels<Single<float16>>()};
}

}  // namespace sparsedrop
