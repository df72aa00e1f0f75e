#include "isa.h"

#include <cstdlib>
#include <cstring>

#if defined(SPARSEDROP_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sparsedrop {
#if defined(SPARSEDROP_AMX)
namespace {

// The CPU has the tiles, and the operating system lets this process use them.
bool has_amx() {
#if defined(__linux__)
  unsigned a, b, c, d;
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bf16) == 0 || (d & tile) == 0) return false;
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace
#endif

IsaList list_isas() {
  IsaList list{{{"baseline", true}}, 1, 0};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  list.at[list.count++] = {"avx2", avx2};
  list.at[list.count++] = {"avx512", avx512};
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  list.at[list.count++] = {"avx512_bf16", bf16};
#if defined(SPARSEDROP_AMX)
  list.at[list.count++] = {"amx_bf16", bf16 && has_amx()};
#endif
#endif
  const char* wanted = std::getenv("SPARSEDROP_CPU_ISA");
  for (int i = 0; i < list.count; ++i)
    if (list.at[i].supported) list.chosen = i;
  for (int i = 0; i < list.count; ++i)
    if (wanted && list.at[i].supported && !std::strcmp(wanted, list.at[i].name)) list.chosen = i;
  return list;
}

}  // namespace sparsedrop
