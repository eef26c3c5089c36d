// SIMD in one native width: the few operations that kernels are written in, for float and double.
//
// Vectors are GCC/Clang vector extensions (+ - * / and comparisons work on them as they are), so
// the same source serves AVX-512, AVX2, SSE2 and NEON; x86 intrinsics stand where the compilers'
// own code is worse. 16-bit storage and int8 are widened to float on the way in and narrowed on the
// way out.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "casa/core/config.hpp"
#include "casa/core/scalar.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define CASA_SIMD_AVX512 1
#else
#define CASA_SIMD_AVX512 0
#endif
#if defined(__AVX2__) && defined(__FMA__)
#define CASA_SIMD_AVX2 1
#else
#define CASA_SIMD_AVX2 0
#endif
#define CASA_INLINE inline __attribute__((always_inline))
// Before a loop: over rows and vectors of a register tile (must vanish), over the tile's depth
// (must stay).
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
/// 0, 1, 2, ...
template <class T>
CASA_INLINE Vec<T> iota() {
  return detail::count_up<Vec<T>>(detail::LaneSequence<T>{});
}

/// The Group values at p, again and again: p[0], .., p[Group - 1], p[0], ...
template <int Group, class T>
CASA_INLINE Vec<T> broadcast_group(const T* p) {
  constexpr Index bytes = Group * static_cast<Index>(sizeof(T));
  if constexpr (Group == 1) {
    return broadcast(*p);
  } else if constexpr (bytes == kBytes) {
    return detail::load_as<Vec<T>>(p);
  } else if constexpr (bytes == 8) {
    return (Vec<T>)broadcast(detail::load_as<double>(p));
#if CASA_SIMD_AVX512
  } else if constexpr (bytes == 16) {
    return (Vec<T>)_mm512_maskz_broadcast_f32x4(0xffff, detail::load_as<__m128>(p));
  } else if constexpr (bytes == 32) {
    return (Vec<T>)_mm512_maskz_broadcast_f32x8(0xffff, detail::load_as<__m256>(p));
#elif CASA_SIMD_AVX2
  } else if constexpr (bytes == 16) {
    const __m128 v = detail::load_as<__m128>(p);
    return (Vec<T>)_mm256_insertf128_ps(_mm256_castps128_ps256(v), v, 1);
#endif
  }
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

/// mask ? a : b, lane by lane.
template <class V>
CASA_INLINE V select(IntVec<Element<V>> mask, V a, V b) {
  return mask ? a : b;
}

/// The larger lane by lane; where one is NaN, b (so keep what may be NaN and must stay so in b).
CASA_INLINE VecF max(VecF a, VecF b) {
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
CASA_INLINE VecD max(VecD a, VecD b) {
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
/// The smaller lane by lane; where one is NaN, b.
template <class V>
CASA_INLINE V min(V a, V b) {
  return a < b ? a : b;
}

// ---- loads and stores (no alignment needed) ----------------------------------------------------

CASA_INLINE VecF load(const float* p) {
  VecF v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
CASA_INLINE VecD load(const double* p) {
  VecD v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
CASA_INLINE void store(float* p, VecF v) { std::memcpy(p, &v, sizeof v); }
CASA_INLINE void store(double* p, VecD v) { std::memcpy(p, &v, sizeof v); }

namespace detail {

// kLanes<float> 16-bit and 8-bit values, and the float-wide integers they widen to.
typedef std::uint16_t Half16 __attribute__((vector_size(kBytes / 2)));
typedef std::int8_t Quarter8 __attribute__((vector_size(kBytes / 4)));
using Bits = Vec<std::uint32_t>;

CASA_INLINE Bits widen_bits(Half16 v) {
#if CASA_SIMD_AVX512
  return (Bits)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)v);
#elif CASA_SIMD_AVX2
  return (Bits)_mm256_cvtepu16_epi32((__m128i)v);
#else
  return __builtin_convertvector(v, Bits);
#endif
}
CASA_INLINE Half16 narrow_bits(Bits v) {
#if CASA_SIMD_AVX512
  return (Half16)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)v);
#else
  return __builtin_convertvector(v, Half16);
#endif
}

// The arithmetic of widen(half) and to_half() in scalar.hpp, lane by lane.
CASA_INLINE VecF half_to_float(Half16 v) {
#if CASA_SIMD_AVX512
  return _mm512_maskz_cvtph_ps(0xffff, (__m256i)v);
#elif CASA_SIMD_AVX2 && defined(__F16C__)
  return _mm256_cvtph_ps((__m128i)v);
#else
  const Bits u = widen_bits(v), magnitude = u & 0x7fffu, sign = (u & 0x8000u) << 16;
  const VecF subnormal = __builtin_convertvector((IntVec<float>)magnitude, VecF) * 0x1p-24f;
  const Bits normal = (magnitude << 13) + (112u << 23);
  const Bits special = (magnitude << 13) | 0x7f800000u;
  const Bits r = magnitude >= 0x7c00u ? special : magnitude >= 0x400u ? normal : (Bits)subnormal;
  return (VecF)(r | sign);
#endif
}
CASA_INLINE Half16 float_to_half(VecF x) {
#if CASA_SIMD_AVX512
  return (Half16)_mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif CASA_SIMD_AVX2 && defined(__F16C__)
  return (Half16)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Bits u = (Bits)x, magnitude = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
  const Bits nan = ((magnitude >> 13) & 0x3ffu) | 0x7e00u;
  const Bits normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const Bits subnormal = (Bits)((VecF)magnitude + 0.5f) - 0x3f000000u;
  const Bits infinity = Bits{} + 0x7c00u;
  const Bits finite = magnitude >= 0x38800000u ? normal : subnormal;
  const Bits r = magnitude > 0x7f800000u ? nan : magnitude >= 0x477ff000u ? infinity : finite;
  return narrow_bits(r | sign);
#endif
}
CASA_INLINE Half16 float_to_bfloat16(VecF x) {
  const Bits u = (Bits)x;
  const Bits nan = (u >> 16) | 0x40u, rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return narrow_bits((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

}  // namespace detail

CASA_INLINE VecF load(const bfloat16* p) {
  return (VecF)(detail::widen_bits(detail::load_as<detail::Half16>(p)) << 16);
}
CASA_INLINE VecF load(const half* p) {
  return detail::half_to_float(detail::load_as<detail::Half16>(p));
}
CASA_INLINE VecF load(const std::int8_t* p) {
#if CASA_SIMD_AVX512
  return _mm512_maskz_cvtepi32_ps(
      0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, (__m128i)detail::load_as<detail::Quarter8>(p)));
#elif CASA_SIMD_AVX2
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
      _mm_loadl_epi64(static_cast<const __m128i*>(static_cast<const void*>(p)))));
#else
  return __builtin_convertvector(
      __builtin_convertvector(detail::load_as<detail::Quarter8>(p), IntVec<float>), VecF);
#endif
}
/// Rounded to nearest even, as narrow().
CASA_INLINE void store(bfloat16* p, VecF v) {
  const detail::Half16 h = detail::float_to_bfloat16(v);
  std::memcpy(static_cast<void*>(p), &h, sizeof h);
}
CASA_INLINE void store(half* p, VecF v) {
  const detail::Half16 h = detail::float_to_half(v);
  std::memcpy(static_cast<void*>(p), &h, sizeof h);
}

/// What load() of S* gives.
template <class S>
using Loaded = decltype(load(std::declval<const S*>()));

/// The first n < lanes values, zeros behind them; nothing behind p[n - 1] is read.
template <class S>
CASA_INLINE Loaded<S> load_partial(const S* p, Index n) {
#if CASA_SIMD_AVX512
  const auto mask = (1u << static_cast<unsigned>(n)) - 1u;
  if constexpr (std::is_same_v<S, float>) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
  } else if constexpr (std::is_same_v<S, double>) {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
  }
#endif
  S full[sizeof(Loaded<S>) / sizeof(Element<Loaded<S>>)] = {};
  if (n > 0) std::memcpy(static_cast<void*>(full), p, static_cast<std::size_t>(n) * sizeof(S));
  return load(full);
}
/// Stores the first n < lanes values; nothing else is touched.
template <class S, class V>
CASA_INLINE void store_partial(S* p, V v, Index n) {
#if CASA_SIMD_AVX512
  const auto mask = (1u << static_cast<unsigned>(n)) - 1u;
  if constexpr (std::is_same_v<S, float>) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), v);
    return;
  } else if constexpr (std::is_same_v<S, double>) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), v);
    return;
  }
#endif
  S full[sizeof(V) / sizeof(Element<V>)];
  store(full, v);
  if (n > 0) std::memcpy(static_cast<void*>(p), full, static_cast<std::size_t>(n) * sizeof(S));
}

/// Asks for the cache line at p to be fetched; any address is allowed.
CASA_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// ---- across lanes ------------------------------------------------------------------------------

/// op over all lanes, in every lane, as a tree (the same order in every build of one width).
template <class V, class Op>
CASA_INLINE V reduce(V v, Op op) {
  constexpr Index n = kLanes<Element<V>>;
  constexpr auto lanes = detail::LaneSequence<Element<V>>{};
  if constexpr (n >= 16) v = op(v, detail::swapped<8>(v, lanes));
  if constexpr (n >= 8) v = op(v, detail::swapped<4>(v, lanes));
  if constexpr (n >= 4) v = op(v, detail::swapped<2>(v, lanes));
  if constexpr (n >= 2) v = op(v, detail::swapped<1>(v, lanes));
  return v;
}
/// The sum of all lanes.
template <class V>
CASA_INLINE Element<V> reduce_add(V v) {
  return reduce(v, [](V a, V b) { return a + b; })[0];
}
/// The largest lane.
template <class V>
CASA_INLINE Element<V> reduce_max(V v) {
  return reduce(v, [](V a, V b) { return max(a, b); })[0];
}

namespace detail {

template <int Step, class V, std::size_t... I>
CASA_INLINE void exchange_blocks(V& a, V& b, std::index_sequence<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I));
  const V low = __builtin_shufflevector(
      a, b,
      ((static_cast<int>(I) & Step) ? n + (static_cast<int>(I) ^ Step) : static_cast<int>(I))...);
  b = __builtin_shufflevector(
      a, b,
      ((static_cast<int>(I) & Step) ? n + static_cast<int>(I) : (static_cast<int>(I) ^ Step))...);
  a = low;
}
// The sums of neighbouring lanes of a, then those of b.
template <class V, std::size_t... I>
CASA_INLINE V add_neighbours(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (2 * static_cast<int>(I))...) +
         __builtin_shufflevector(a, b, (2 * static_cast<int>(I) + 1)...);
}

template <int Step, class V, std::size_t N>
CASA_INLINE void transpose_steps(V (&v)[N]) {
  if constexpr (Step < static_cast<int>(N)) {
    CASA_UNROLL
    for (std::size_t i = 0; i < N; ++i)
      if ((i & Step) == 0) exchange_blocks<Step>(v[i], v[i + Step], std::make_index_sequence<N>{});
    transpose_steps<Step * 2>(v);
  }
}

}  // namespace detail

/// Each vector's lanes summed in groups of N neighbours, the results of v[0], v[1], ... side by
/// side.
template <class V, std::size_t N>
CASA_INLINE V add_groups(const V (&v)[N]) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    V half[N / 2];
    CASA_UNROLL
    for (std::size_t i = 0; i < N / 2; ++i)
      half[i] = detail::add_neighbours(v[2 * i], v[2 * i + 1], detail::LaneSequence<Element<V>>{});
    return add_groups(half);
  }
}
/// op over the lanes i, i + Stride, i + 2 Stride, ..., in each of them.
template <int Stride, class V, class Op>
CASA_INLINE V reduce_strided(V v, Op op) {
  if constexpr (Stride < kLanes<Element<V>>)
    return reduce_strided<Stride * 2>(
        op(v, detail::swapped<Stride>(v, detail::LaneSequence<Element<V>>{})), op);
  else
    return v;
}

/// The square of N vectors of N lanes, transposed in registers.
template <class V, std::size_t N>
CASA_INLINE void transpose(V (&v)[N]) {
  static_assert(N == static_cast<std::size_t>(kLanes<Element<V>>));
  detail::transpose_steps<1>(v);
}

// ---- exponentials ------------------------------------------------------------------------------

namespace detail {

// 2^r on [-1/2, 1/2], times Scale: 1 + r c1 + r^2 c2 + ..., interpolated at Chebyshev nodes.
// Error before rounding: float 5e-9, double 1e-17.
template <class V>
CASA_INLINE V exp2_polynomial(V r, Element<V> scale) {
  using T = Element<V>;
  if constexpr (sizeof(T) == 4) {
    V p = broadcast<T>(1.545316295e-4f * scale);
    p = fma(p, r, broadcast<T>(1.339086336e-3f * scale));
    p = fma(p, r, broadcast<T>(9.618082558e-3f * scale));
    p = fma(p, r, broadcast<T>(5.550357114e-2f * scale));
    p = fma(p, r, broadcast<T>(2.402265076e-1f * scale));
    p = fma(p, r, broadcast<T>(6.931471880e-1f * scale));
    return fma(p, r, broadcast<T>(scale));
  } else {
    V p = broadcast<T>(4.454960598186518394e-10 * scale);
    p = fma(p, r, broadcast<T>(7.0725859492692237e-9 * scale));
    p = fma(p, r, broadcast<T>(1.017806244584577352e-7 * scale));
    p = fma(p, r, broadcast<T>(1.321544258792168965e-6 * scale));
    p = fma(p, r, broadcast<T>(0.00001525273382983611839 * scale));
    p = fma(p, r, broadcast<T>(0.0001540353044173605015 * scale));
    p = fma(p, r, broadcast<T>(0.001333355814641693531 * scale));
    p = fma(p, r, broadcast<T>(0.009618129107606888527 * scale));
    p = fma(p, r, broadcast<T>(0.05550410866482159434 * scale));
    p = fma(p, r, broadcast<T>(0.2402265069591009822 * scale));
    p = fma(p, r, broadcast<T>(0.6931471805599453094 * scale));
    return fma(p, r, broadcast<T>(scale));
  }
}

// Added, it leaves x rounded to an integer in the low mantissa bits (1.5 * 2^mantissa).
template <class T>
inline constexpr T kRounder = sizeof(T) == 4 ? T(12582912) : T(6755399441055744);
template <class T>
inline constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
template <class T>
inline constexpr int kBias = sizeof(T) == 4 ? 127 : 1023;

// The maskz forms (all lanes on) give the same instructions; g++ 12's plain ones warn of an
// uninitialised operand wherever they are inlined. (Unoptimised they are macros, which warn of the
// mask's sign.)
#if CASA_SIMD_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
CASA_INLINE VecF round(VecF x) { return _mm512_maskz_roundscale_ps(0xffff, x, 8); }
CASA_INLINE VecD round(VecD x) { return _mm512_maskz_roundscale_pd(0xff, x, 8); }
// p * 2^n; with n = -inf it is 0 whatever p is (p is NaN then), with +inf it is +inf.
CASA_INLINE VecF scale_by_power(VecF p, VecF n) { return _mm512_maskz_scalef_ps(0xffff, p, n); }
CASA_INLINE VecD scale_by_power(VecD p, VecD n) { return _mm512_maskz_scalef_pd(0xff, p, n); }
#pragma GCC diagnostic pop
#else
template <class V>
CASA_INLINE V round(V x) {
  const V rounder = broadcast<Element<V>>(kRounder<Element<V>>);
  return (x + rounder) - rounder;
}
// p * 2^n for |n| small enough that both halves are normal numbers, also where the result is not.
template <class V>
CASA_INLINE V scale_by_power(V p, V n) {
  using T = Element<V>;
  using I = IntOf<T>;
  const V rounder = broadcast<T>(kRounder<T>);
  const V t = n * T(0.5) + rounder;
  const V half1 = t - rounder, half2 = n - half1;
  const IntVec<T> one = broadcast<I>(I{kBias<T>} << kMantissa<T>);
  const V s1 = bits_as<V>((bits_as<IntVec<T>>(t) << kMantissa<T>)+one);
  const V s2 = bits_as<V>((bits_as<IntVec<T>>(half2 + rounder) << kMantissa<T>)+one);
  return p * s1 * s2;
}
#endif

}  // namespace detail

/// 2^x, to 2 ulp; exactly 1 at 0, 0 at -inf, +inf at +inf, NaN at NaN, gradual underflow.
template <class V>
CASA_INLINE V exp2(V x) {
  using T = Element<V>;
#if !CASA_SIMD_AVX512
  constexpr T bound = sizeof(T) == 4 ? T(200) : T(1200);
  x = max(broadcast<T>(-bound), min(broadcast<T>(bound), x));
#endif
  const V n = detail::round(x);
  return detail::scale_by_power(detail::exp2_polynomial(x - n, T(1)), n);
}

/// exp2 for x <= 0, as a softmax needs it: one step cheaper where the machine has no scaling by
/// powers.
template <class V>
CASA_INLINE V exp2_nonpositive(V x) {
#if CASA_SIMD_AVX512
  return exp2(x);
#else
  using T = Element<V>;
  // The polynomial carries a factor 2^offset, so that adding n to its exponent stays normal; the
  // last multiplication takes it away again and underflows where the result does.
  constexpr T offset = sizeof(T) == 4 ? T(0x1p+64) : T(0x1p+128);
  x = max(broadcast<T>(sizeof(T) == 4 ? T(-180) : T(-1140)), x);
  const V rounder = broadcast<T>(detail::kRounder<T>);
  const V t = x + rounder;
  const V p = detail::exp2_polynomial(x - (t - rounder), offset);
  const IntVec<T> scaled = bits_as<IntVec<T>>(p) + (bits_as<IntVec<T>>(t) << detail::kMantissa<T>);
  return bits_as<V>(scaled) * (T(1) / offset);
#endif
}

/// e^x, to 2 ulp (ln 2 is taken off in two parts); the same special values as exp2.
template <class V>
CASA_INLINE V exp(V x) {
  using T = Element<V>;
  constexpr T bound = sizeof(T) == 4 ? T(120) : T(800);
  x = max(broadcast<T>(-bound), min(broadcast<T>(bound), x));
  constexpr T log2e = T(1.4426950408889634074);
  constexpr T ln2_high = sizeof(T) == 4 ? T(0.693145751953125) : T(0.693147180369123816490);
  constexpr T ln2_low = sizeof(T) == 4 ? T(1.42860682030941723e-6) : T(1.90821492927058770002e-10);
  const V n = detail::round(x * log2e);
  V r = fma(n, broadcast<T>(-ln2_high), x);
  r = fma(n, broadcast<T>(-ln2_low), r) * log2e;
  return detail::scale_by_power(detail::exp2_polynomial(r, T(1)), n);
}

/// Keeps a loaded vector in its register: g++ 12 would load it again in every multiply-add.
template <class V>
CASA_INLINE void keep([[maybe_unused]] V& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
}

}  // namespace simd

CASA_NAMESPACE_END
