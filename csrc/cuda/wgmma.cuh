// The tensor cores: four warps multiply 64 lines of A with 128 or 256 lines of B, both in shared memory.
#pragma once

#include "barriers.cuh"

namespace sparsedrop {

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Gives registers back, or takes them, for the four warps of the caller.
template <int Registers>
__device__ __forceinline__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// Where an operand lies, in boxes of 128-byte rows, swizzled. With the sum's terms along memory, a row is a line of 64 terms;
// with the lines along memory ("lines first"), a row is one term of 64 lines and each further 64 lines are 8 KiB on.
template <bool LinesFirst>
__device__ __forceinline__ u64 describe(u32 address) {
  constexpr u64 swizzle_128 = 1ull << 62, eight_rows = 1024 >> 4, next_lines = LinesFirst ? 8192 >> 4 : 1;
  return swizzle_128 | eight_rows << 32 | next_lines << 16 | (address & 0x3FFFF) >> 4;
}

// How far a descriptor moves on for the next 16 terms.
template <bool LinesFirst>
constexpr u64 kNextTerms = LinesFirst ? 2048 >> 4 : 32 >> 4;

#define SPARSEDROP_8(c, i) \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define SPARSEDROP_32(c, i) SPARSEDROP_8(c, i), SPARSEDROP_8(c, i + 8), SPARSEDROP_8(c, i + 16), SPARSEDROP_8(c, i + 24)
#define SPARSEDROP_64(c) SPARSEDROP_32(c, 0), SPARSEDROP_32(c, 32)
#define SPARSEDROP_128(c) SPARSEDROP_64(c), SPARSEDROP_32(c, 64), SPARSEDROP_32(c, 96)

// 16 terms, for 128 lines of B or for 256. Without `add` the old sum is forgotten.
template <bool ALinesFirst, bool BLinesFirst>
__device__ __forceinline__ void multiply_16(float (&c)[64], u64 a, u64 b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." SPARSEDROP_TYPE "." SPARSEDROP_TYPE " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, add, 1, 1, %67, %68; }\n"
      : SPARSEDROP_64(c)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(ALinesFirst), "n"(BLinesFirst));
}

template <bool ALinesFirst, bool BLinesFirst>
__device__ __forceinline__ void multiply_16(float (&c)[128], u64 a, u64 b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." SPARSEDROP_TYPE "." SPARSEDROP_TYPE " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, add, 1, 1, %131, %132; }\n"
      : SPARSEDROP_128(c)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(ALinesFirst), "n"(BLinesFirst));
}

// A whole step.
template <bool ALinesFirst, bool BLinesFirst, int Sums>
__device__ __forceinline__ void multiply(float (&c)[Sums], u64 a, u64 b, bool add) {
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    multiply_16<ALinesFirst, BLinesFirst>(c, a, b, add || i > 0);
    a += kNextTerms<ALinesFirst>;
    b += kNextTerms<BLinesFirst>;
  }
  wgmma_commit();
}

}  // namespace sparsedrop
