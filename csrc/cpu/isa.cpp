#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace sparsedrop {

namespace baseline {
extern const Kernels table[4];
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels table[4];
}
namespace avx512 {
extern const Kernels table[4];
}
namespace avx512_bf16 {
extern const Kernels table[4];
}
#endif

IsaList list_isas() {
  IsaList list{{{"baseline", baseline::table, true}}, 1, 0, nullptr};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  list.at[list.count++] = {"avx2", avx2::table, has_avx2};
  list.at[list.count++] = {"avx512", avx512::table, has_avx512};
  list.at[list.count++] = {"avx512_bf16", avx512_bf16::table, has_bf16};
#endif
  const char* wanted = std::getenv("SPARSEDROP_CPU_ISA");
  if (wanted && !*wanted) wanted = nullptr;
  list.requested = wanted;
  for (int i = 0; i < list.count; ++i) {
    if (!list.at[i].supported || (wanted && std::strcmp(wanted, list.at[i].name) != 0)) continue;
    list.chosen = i;
    list.requested = nullptr;
  }
  if (list.requested)
    for (int i = 0; i < list.count; ++i)
      if (list.at[i].supported) list.chosen = i;
  return list;
}

const Kernels& kernels_for(Element element) {
  static const IsaList list = list_isas();
  return list.at[list.chosen].table[static_cast<int>(element)];
}

}  // namespace sparsedrop
