#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace sparsedrop {

IsaList list_isas() {
  IsaList list{{{"baseline", true}}, 1, 0};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  list.at[list.count++] = {"avx2", avx2};
  list.at[list.count++] = {"avx512", avx512};
  list.at[list.count++] = {"avx512_bf16", avx512 && __builtin_cpu_supports("avx512bf16")};
#endif
  const char* wanted = std::getenv("SPARSEDROP_CPU_ISA");
  for (int i = 0; i < list.count; ++i)
    if (list.at[i].supported) list.chosen = i;
  for (int i = 0; i < list.count; ++i)
    if (wanted && list.at[i].supported && !std::strcmp(wanted, list.at[i].name)) list.chosen = i;
  return list;
}

}  // namespace sparsedrop
