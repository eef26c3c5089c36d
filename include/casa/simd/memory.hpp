// Loads and stores of vectors (no alignment needed): whole, partial, and of 16-bit and int8
// storage, which is widened to float on the way in and narrowed on the way out.
#pragma once

#include "casa/simd/vector.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

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

/// Stores a vector past the caches, p aligned to its size: the line is not read from memory first,
/// and displaces nothing. Other threads see it after stream_fence().
CASA_INLINE void stream(float* p, VecF v) {
#if CASA_SIMD_AVX512
  _mm512_stream_ps(p, v);
#elif CASA_SIMD_AVX2
  _mm256_stream_ps(p, v);
#else
  store(p, v);
#endif
}
CASA_INLINE void stream(double* p, VecD v) {
#if CASA_SIMD_AVX512
  _mm512_stream_pd(p, v);
#elif CASA_SIMD_AVX2
  _mm256_stream_pd(p, v);
#else
  store(p, v);
#endif
}
CASA_INLINE void stream_fence() {
#if CASA_SIMD_AVX2 || CASA_SIMD_AVX512
  _mm_sfence();
#endif
}

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
#elif CASA_SIMD_AVX2 && CASA_SIMD_F16C
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
#elif CASA_SIMD_AVX2 && CASA_SIMD_F16C
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

/// Whether one or two instructions widen a vector of S to float.
template <class S>
inline constexpr bool kWidensFast = std::is_same_v<S, bfloat16> ||
                                    (std::is_same_v<S, half> &&
                                     (CASA_SIMD_AVX512 || (CASA_SIMD_AVX2 && CASA_SIMD_F16C)));

/// The vector that load(const S*) gives.
template <class S>
using Loaded = decltype(load(std::declval<const S*>()));

/// The first n < lanes values, zeros after them; nothing after p[n - 1] is read.
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
CASA_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
/// How many bytes ahead a loop that waits for memory prefetches one contiguous segment, into the
/// first-level cache. Measured on a Zen 5 that reads 41 GB/s, against shorter distances and other
/// orders: attention of 1, 2, 4, 8 rows over 65,536 float keys 36, 34, 31, 15 before and 38, 37,
/// 35, 32 GB/s after; one row through int8 weights 27 before, 36 after.
inline constexpr Index kReadAhead = 8192;

}  // namespace simd

CASA_NAMESPACE_END
