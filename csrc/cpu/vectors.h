// Vectors of the instruction set that this translation unit is compiled for.
// Everything has internal linkage: the same names are compiled for several CPUs, and the linker
// must never replace one by another. For the same reason nothing from the standard library is called.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace sparsedrop {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T, int n>
struct VectorOf {
  typedef T type __attribute__((vector_size(n * sizeof(T))));
};
template <class T, int n>
using Vector = typename VectorOf<T, n>::type;

template <class V>
inline V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
inline void store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

template <class T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};
template <class T>
using Sum = typename SumOf<T>::type;
template <class T>
constexpr int lanes_of = vector_bytes / sizeof(Sum<T>);
template <class T>
using Sums = Vector<Sum<T>, lanes_of<T>>;

constexpr int float_lanes = vector_bytes / sizeof(float);
using Floats = Vector<float, float_lanes>;
using Words = Vector<uint32_t, float_lanes>;
using SignedWords = Vector<int32_t, float_lanes>;
using Shorts = Vector<uint16_t, float_lanes>;

// GCC 12 converts a vector in halves where one instruction would do.
#if defined(__AVX512F__)
inline Words widen(Shorts v) { return (Words)_mm512_cvtepu16_epi32((__m256i)v); }
inline Shorts narrow(Words v) { return (Shorts)_mm512_cvtepi32_epi16((__m512i)v); }
#elif defined(__AVX2__)
inline Words widen(Shorts v) { return (Words)_mm256_cvtepu16_epi32((__m128i)v); }
inline Shorts narrow(Words v) { return __builtin_convertvector(v, Shorts); }
#else
inline Words widen(Shorts v) { return __builtin_convertvector(v, Words); }
inline Shorts narrow(Words v) { return __builtin_convertvector(v, Shorts); }
#endif
inline Words select(SignedWords mask, Words yes, Words no) {
  return ((Words)mask & yes) | (~(Words)mask & no);
}

inline Floats load_sums(const float* from) { return load<Floats>(from); }
inline Sums<double> load_sums(const double* from) { return load<Sums<double>>(from); }
inline Floats load_sums(const bfloat16* from) { return (Floats)(widen(load<Shorts>(from)) << 16); }

inline void store_sums(float* to, Floats v) { store(to, v); }
inline void store_sums(double* to, Sums<double> v) { store(to, v); }
#if defined(__AVX512BF16__)
inline void store_sums(bfloat16* to, Floats v) { store(to, _mm512_cvtneps_pbh((__m512)v)); }
#else
inline void store_sums(bfloat16* to, Floats v) {
  Words bits = (Words)v;
  Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  SignedWords nan = (SignedWords)(v != v);
  store(to, narrow(select(nan, (bits >> 16) | 0x40, rounded)));
}
#endif

#if defined(__AVX512F__)
inline Floats load_sums(const float16* from) { return (Floats)_mm512_cvtph_ps(load<__m256i>(from)); }
inline void store_sums(float16* to, Floats v) {
  store(to, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
inline Floats load_sums(const float16* from) { return (Floats)_mm256_cvtph_ps(load<__m128i>(from)); }
inline void store_sums(float16* to, Floats v) {
  store(to, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
// The exponent is moved by a multiplication, which also normalises subnormal numbers.
inline Floats load_sums(const float16* from) {
  Words half = widen(load<Shorts>(from));
  Words magnitude = (half & 0x7fff) << 13;
  SignedWords special = (SignedWords)(magnitude >= 0x0f800000u);
  Words finite = (Words)((Floats)magnitude * 0x1p112f);
  return (Floats)(((half & 0x8000) << 16) | select(special, magnitude | 0x7f800000u, finite));
}
inline void store_sums(float16* to, Floats v) {
  Words bits = (Words)v, sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  Words normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 leaves the rounded subnormal in the lowest bits of the sum.
  Words subnormal = (Words)((Floats)magnitude + 0.5f) - 0x3f000000u;
  Words half = select((SignedWords)(magnitude < 0x38800000u), subnormal, normal);
  half = select((SignedWords)(magnitude >= 0x477ff000u), Words{} + 0x7c00, half);
  half = select((SignedWords)(magnitude > 0x7f800000u), Words{} + 0x7e00, half);
  store(to, narrow(half | sign));
}
#endif

// `count` elements and zeros after them.
template <class T>
inline Sums<T> load_sums(const T* from, ptrdiff_t stride, ptrdiff_t count) {
  constexpr int n = lanes_of<T>;
  if (stride == 1 && count >= n) return load_sums(from);
  T some[n] = {};
  for (ptrdiff_t i = 0; i < n && i < count; ++i) some[i] = from[i * stride];
  return load_sums(some);
}

template <class T>
inline void store_sums(T* to, Sums<T> v, ptrdiff_t count) {
  constexpr int n = lanes_of<T>;
  if (count >= n) return store_sums(to, v);
  T some[n];
  store_sums(some, v);
  for (ptrdiff_t i = 0; i < count; ++i) to[i] = some[i];
}

// Exchanges the off-diagonal blocks of size `distance` in every pair of rows that far apart.
template <int distance, class V, size_t... i>
inline void exchange(V& low, V& high, std::index_sequence<i...>) {
  constexpr size_t n = sizeof...(i), d = distance;
#if defined(__clang__) || __GNUC__ >= 12
  V first = __builtin_shufflevector(low, high, (i & d ? n + i - d : i)...);
  high = __builtin_shufflevector(low, high, (i & d ? n + i : i + d)...);
#else
  using Index = Vector<std::conditional_t<sizeof(low[0]) == 8, int64_t, int32_t>, n>;
  V first = __builtin_shuffle(low, high, Index{(i & d ? n + i - d : i)...});
  high = __builtin_shuffle(low, high, Index{(i & d ? n + i : i + d)...});
#endif
  low = first;
}

template <int distance, class V, int n>
inline void transpose(V (&rows)[n]) {
  if constexpr (distance < n) {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i)
      if (!(i & distance)) exchange<distance>(rows[i], rows[i | distance], std::make_index_sequence<n>());
    transpose<2 * distance>(rows);
  }
}

}  // namespace
}  // namespace sparsedrop
