// The native vector of float and double, and arithmetic on it.
//
// Vectors are GCC/Clang vector extensions (+ - * / and comparisons work on them as they are), so
// the same source serves AVX-512, AVX2, SSE2 and NEON; x86 intrinsics stand where the compilers'
// own code is worse.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "casa/core/config.hpp"
#include "casa/core/scalar.hpp"

// immintrin.h declares all of AVX-512 whatever the flags, which takes 0.4 times as long as
// Eigen/Core to compile. Without AVX, what is used (and what Eigen includes) is smaller.
#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__SSE4_1__)
#include <smmintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define CASA_SIMD_AVX512 1
#else
#define CASA_SIMD_AVX512 0
#endif
#if CASA_SIMD_AVX512 && defined(__AVX512BF16__)
#define CASA_SIMD_AVX512_BF16 1
#else
#define CASA_SIMD_AVX512_BF16 0
#endif
#if defined(__AVX2__) && defined(__FMA__)
#define CASA_SIMD_AVX2 1
#else
#define CASA_SIMD_AVX2 0
#endif
#if defined(__F16C__)
#define CASA_SIMD_F16C 1
#else
#define CASA_SIMD_F16C 0
#endif
// Products of four unsigned and four signed bytes in each lane of int32.
#if (CASA_SIMD_AVX512 && defined(__AVX512VNNI__)) || \
    (!CASA_SIMD_AVX512 && CASA_SIMD_AVX2 && defined(__AVXVNNI__))
#define CASA_SIMD_VNNI 1
#else
#define CASA_SIMD_VNNI 0
#endif
// The same of signed bytes.
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define CASA_SIMD_DOTPROD 1
#else
#define CASA_SIMD_DOTPROD 0
#endif
#define CASA_INLINE inline __attribute__((always_inline))
// Stand before a loop. CASA_UNROLL: over the rows or vectors of a register tile; it must be
// unrolled fully, or the tile is an array in memory. CASA_NO_UNROLL: over a tile's depth; unrolled
// by 2 to 4, g++ 12 adds moves and spills (2 to 7 points of the multiply-add peak, measured on
// AVX-512).
#if defined(__clang__)
#define CASA_UNROLL _Pragma("clang loop unroll(full)")
#define CASA_NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define CASA_UNROLL _Pragma("GCC unroll 32")
#define CASA_NO_UNROLL _Pragma("GCC unroll 1")
#endif

CASA_NAMESPACE_BEGIN

namespace simd {

/// Bytes of a vector register, and how many of them there are.
inline constexpr Index kBytes = CASA_SIMD_AVX512 ? 64 : CASA_SIMD_AVX2 ? 32 : 16;
#if defined(__aarch64__)
inline constexpr Index kRegisters = 32;
#else
inline constexpr Index kRegisters = CASA_SIMD_AVX512 ? 32 : 16;
#endif

/// Values of T in a vector.
template <class T>
inline constexpr Index kLanes = kBytes / static_cast<Index>(sizeof(T));

namespace detail {

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <class T>
using IntOf = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

}  // namespace detail

/// The native vector of T.
template <class T>
using Vec = typename detail::VectorOf<T>::type;
/// The vector of signed integers as wide as T; what comparisons of Vec<T> give (all bits set:
/// true).
template <class T>
using IntVec = Vec<detail::IntOf<T>>;

using VecF = Vec<float>;
using VecD = Vec<double>;

/// The type of a vector's values.
template <class V>
using Element = std::remove_cvref_t<decltype(std::declval<V&>()[0])>;

namespace detail {

template <class V, class T, std::size_t... I>
CASA_INLINE V splat(T x, std::index_sequence<I...>) {
  return V{(static_cast<void>(I), x)...};
}
template <class V, std::size_t... I>
CASA_INLINE V count_up(std::index_sequence<I...>) {
  return V{static_cast<Element<V>>(I)...};
}
template <class T>
using LaneSequence = std::make_index_sequence<static_cast<std::size_t>(kLanes<T>)>;

template <class V>
CASA_INLINE V load_as(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Lane i of the result is lane i ^ Step of v.
template <int Step, class V, std::size_t... I>
CASA_INLINE V swapped(V v, std::index_sequence<I...>) {
  return __builtin_shufflevector(v, v, (static_cast<int>(I) ^ Step)...);
}

}  // namespace detail

/// x in every lane.
template <class T>
CASA_INLINE Vec<T> broadcast(T x) {
  return detail::splat<Vec<T>>(x, detail::LaneSequence<T>{});
}
/// Lane i is i.
template <class T>
CASA_INLINE Vec<T> iota() {
  return detail::count_up<Vec<T>>(detail::LaneSequence<T>{});
}

/// The bits of v as another vector type.
template <class To, class From>
CASA_INLINE To bits_as(From v) {
  static_assert(sizeof(To) == sizeof(From));
  return (To)v;
}

/// a * b + c, in one rounding where the machine has it.
CASA_INLINE VecF fma(VecF a, VecF b, VecF c) {
#if CASA_SIMD_AVX512
  return _mm512_fmadd_ps(a, b, c);
#elif CASA_SIMD_AVX2
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}
CASA_INLINE VecD fma(VecD a, VecD b, VecD c) {
#if CASA_SIMD_AVX512
  return _mm512_fmadd_pd(a, b, c);
#elif CASA_SIMD_AVX2
  return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f64(c, a, b);
#else
  return a * b + c;
#endif
}

/// a * b + c in one rounding on every machine, so that its bits are the same everywhere. Slow where
/// there is no instruction for it.
CASA_INLINE VecF fused(VecF a, VecF b, VecF c) {
#if CASA_SIMD_AVX512 || CASA_SIMD_AVX2 || defined(__aarch64__)
  return fma(a, b, c);
#else
  VecF r;
  CASA_UNROLL
  for (Index i = 0; i < kLanes<float>; ++i) r[i] = std::fma(a[i], b[i], c[i]);
  return r;
#endif
}

/// sum += a * b, written as an instruction so that sum stays in its register: left to itself, g++
/// 12 writes products into the registers of their factors and adds moves to the innermost loops.
template <class V>
CASA_INLINE void accumulate(V& sum, V a, V b) {
#if CASA_SIMD_AVX512 || CASA_SIMD_AVX2
  if constexpr (sizeof(Element<V>) == 4)
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  else
    asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
  sum = fma(a, b, sum);
#endif
}

/// mask ? a : b, lane by lane.
template <class V>
CASA_INLINE V select(IntVec<Element<V>> mask, V a, V b) {
  return mask ? a : b;
}

/// a where the lane's bit is set, else b; bit i is lane i's, further bits mean nothing.
CASA_INLINE VecF select_bits(std::uint64_t bits, VecF a, VecF b) {
#if CASA_SIMD_AVX512
  return _mm512_mask_mov_ps(b, static_cast<__mmask16>(bits), a);
#else
  const IntVec<float> lane = detail::splat<IntVec<float>>(1, detail::LaneSequence<float>{})
                             << iota<std::int32_t>();
  return (broadcast(static_cast<std::int32_t>(bits)) & lane) != 0 ? a : b;
#endif
}
CASA_INLINE VecD select_bits(std::uint64_t bits, VecD a, VecD b) {
#if CASA_SIMD_AVX512
  return _mm512_mask_mov_pd(b, static_cast<__mmask8>(bits), a);
#else
  const IntVec<double> lane = detail::splat<IntVec<double>>(1, detail::LaneSequence<double>{})
                              << iota<std::int64_t>();
  return (broadcast(static_cast<std::int64_t>(bits)) & lane) != 0 ? a : b;
#endif
}

/// The larger, lane by lane. Where either is NaN the result is b, so an argument whose NaN must
/// survive belongs in b. (The name is in parentheses, as everywhere in the library, so that a macro
/// named max does not expand.)
CASA_INLINE VecF(max)(VecF a, VecF b) {
#if CASA_SIMD_AVX512
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif CASA_SIMD_AVX2
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
CASA_INLINE VecD(max)(VecD a, VecD b) {
#if CASA_SIMD_AVX512
  return _mm512_maskz_max_pd(0xff, a, b);
#elif CASA_SIMD_AVX2
  return _mm256_max_pd(a, b);
#elif defined(__SSE2__)
  return _mm_max_pd(a, b);
#else
  return a > b ? a : b;
#endif
}
/// The smaller, lane by lane. Where either is NaN the result is b.
template <class V>
CASA_INLINE V(min)(V a, V b) {
  return a < b ? a : b;
}

/// The square root, lane by lane, correctly rounded.
CASA_INLINE VecF sqrt(VecF v) {
#if CASA_SIMD_AVX512
  return _mm512_maskz_sqrt_ps(0xffff, v);
#elif CASA_SIMD_AVX2
  return _mm256_sqrt_ps(v);
#elif defined(__SSE2__)
  return _mm_sqrt_ps(v);
#elif defined(__aarch64__)
  return vsqrtq_f32(v);
#else
  for (Index i = 0; i < kLanes<float>; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}
CASA_INLINE VecD sqrt(VecD v) {
#if CASA_SIMD_AVX512
  return _mm512_maskz_sqrt_pd(0xff, v);
#elif CASA_SIMD_AVX2
  return _mm256_sqrt_pd(v);
#elif defined(__SSE2__)
  return _mm_sqrt_pd(v);
#elif defined(__aarch64__)
  return vsqrtq_f64(v);
#else
  for (Index i = 0; i < kLanes<double>; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}

/// Forces a vector into a register at this point. Without it g++ 12 repeats the load as a memory
/// operand of every multiply-add of a tile (a tile of 4 x 4 vectors: 77 % of the peak, 98 % with
/// it), or creates the vector only inside the loop that follows.
template <class V>
CASA_INLINE void keep([[maybe_unused]] V& v) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(v));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(v));
#endif
}

/// Forces an address into a register. Without it g++ 12 computes one address for each value that is
/// read at a fixed distance from it.
template <class T>
CASA_INLINE void keep_address(T*& p) {
  asm volatile("" : "+r"(p));
}

/// Aligns the loop over i that follows to 32 bytes: one that straddles such a line badly runs a
/// tenth slower. Nothing may be computed between this and the loop, so apply keep() to its inputs
/// first.
CASA_INLINE void align_loop([[maybe_unused]] Index& i) {
#if defined(__x86_64__)
  asm volatile(".p2align 5" : "+r"(i));
#endif
}

}  // namespace simd

CASA_NAMESPACE_END
