// Quads of int8 in the lanes of int32: four products a lane, summed without rounding. Every machine
// gives the same sums.
//
// One factor is a weight, the other a value of a row of x. Where the machine multiplies bytes
// (AVX-512 VNNI, AVX-VNNI, Arm's dot product), quads are multiplied as they are; VNNI takes one of
// the two factors without a sign, so weights are held with 128 added there, and sums begin at -128
// times the sum of the row's values. Elsewhere bytes become 16-bit integers, two of which are
// multiplied at once (pmaddwd): neither overflows, because |value| <= 127.
#pragma once

#include "casa/simd/lane_order.hpp"
#include "casa/simd/pairs.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

/// Whether one instruction multiplies a quad of bytes.
inline constexpr bool kMultipliesQuads = CASA_SIMD_VNNI || CASA_SIMD_DOTPROD;
/// What is added to the weights of a quad.
inline constexpr std::int32_t kQuadOffset = CASA_SIMD_VNNI ? 128 : 0;

/// Four weights of one output side by side, kQuadOffset added to each.
struct WeightQuad {
  std::uint8_t bytes[4];  ///< in order of k

  /// Weight i of the four.
  std::int8_t weight(Index i) const {
    return static_cast<std::int8_t>(bytes[i] ^ static_cast<std::uint8_t>(kQuadOffset));
  }
};
/// The four weights at p.
inline WeightQuad weight_quad(const std::int8_t* p) {
  std::uint32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return casa::detail::bit_cast<WeightQuad>(bits ^ (kQuadOffset == 0 ? 0u : 0x80808080u));
}
/// Four values of one row of x.
struct ValueQuad {
  /// In order of k; where they are 16 bits wide, first the even ones, then the odd ones.
  std::conditional_t<kMultipliesQuads, std::int8_t, std::int16_t> values[4];
};
template <>
inline constexpr Index kUnit<ValueQuad> = 4;
/// The four values as bytes in order of k.
inline void store_bytes(std::int8_t* to, const ValueQuad& quad) {
  if constexpr (kMultipliesQuads) {
    std::memcpy(to, quad.values, 4);
  } else {
    for (std::size_t i = 0; i < 4; ++i)
      to[i] = static_cast<std::int8_t>(quad.values[i / 2 + i % 2 * 2]);
  }
}

using VecI = Vec<std::int32_t>;

/// Quads in the lanes of int32, ready to be multiplied.
#if CASA_SIMD_VNNI || CASA_SIMD_DOTPROD
using VecQuads = VecI;
#else
struct VecQuads {
  Vec<std::int16_t> even, odd;
};
#endif
namespace detail {
template <>
struct VectorOf<ValueQuad> {
  using type = VecQuads;
};
}  // namespace detail

#if CASA_SIMD_VNNI || CASA_SIMD_DOTPROD
CASA_INLINE VecQuads load(const WeightQuad* p) {
  auto v = detail::load_as<VecQuads>(p);
  keep(v);
  return v;
}
CASA_INLINE VecQuads broadcast(ValueQuad x) {
  return broadcast(casa::detail::bit_cast<std::int32_t>(x));
}
/// sum + the four products of x and w, lane by lane; w are the weights. (Written as an instruction,
/// because g++ 12 moves each sum to another register and back: 39 instead of 75 % of the peak.)
CASA_INLINE VecI fma(VecQuads x, VecQuads w, VecI sum) {
#if CASA_SIMD_AVX512
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
  return sum;
#elif CASA_SIMD_VNNI
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
  return sum;
#else
  return (VecI)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
#endif
}
#else
CASA_INLINE VecQuads load(const WeightQuad* p) {
  const auto both = detail::load_as<Vec<std::int16_t> >(p);
  return {(both << 8) >> 8, both >> 8};
}
CASA_INLINE VecQuads broadcast(ValueQuad x) {
  std::int32_t halves[2];
  std::memcpy(halves, &x, sizeof x);
  return {(Vec<std::int16_t>)broadcast(halves[0]), (Vec<std::int16_t>)broadcast(halves[1])};
}
CASA_INLINE void keep(VecQuads& v) {
  keep(v.even);
  keep(v.odd);
}

namespace detail {

// a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1] in lane i.
CASA_INLINE VecI multiply_pairs(Vec<std::int16_t> a, Vec<std::int16_t> b) {
#if CASA_SIMD_AVX512
  return (VecI)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif CASA_SIMD_AVX2
  return (VecI)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (VecI)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  const VecI x = (VecI)a, y = (VecI)b;
  return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

}  // namespace detail

/// sum + the four products of x and w, lane by lane; w are the weights.
CASA_INLINE VecI fma(VecQuads x, VecQuads w, VecI sum) {
  return sum + detail::multiply_pairs(w.even, x.even) + detail::multiply_pairs(w.odd, x.odd);
}
#endif

/// Weight i of each of the lanes quads at p, as float. With the offset, the byte becomes the lowest
/// bits of 2^23 as float, so that one subtraction gives its value. With `TwoBases` the bytes 1 and
/// 3 become bits 8 to 15 of 2^15 instead: one shift of a quad then serves them all, for three more
/// registers of constants, which tiles of up to three rows have to spare (six rows: 1.15 times as
/// long). (A byte shuffle under a mask, fewer instructions, took up to 1.3 times as long on a
/// Zen 5.)
template <bool TwoBases = false>
CASA_INLINE VecF load_one_of_four(const WeightQuad* p, Index i) {
  const auto quads = detail::load_as<VecI>(p);
  VecF weights;
  if constexpr (kQuadOffset != 0) {
    const bool second = TwoBases && i % 2 == 1;
    const auto shift = static_cast<std::uint32_t>(8 * (second ? i - 1 : i));
    const auto low = (detail::Bits)(quads) >> shift;
    const std::int32_t byte = second ? 0xff00 : 0xff;
    const VecF base = broadcast(second ? 0x1p15f : 0x1p23f);
#if CASA_SIMD_AVX512
    constexpr int and_or = 0xea;
    weights = (VecF)_mm512_ternarylogic_epi32((__m512i)low, _mm512_set1_epi32(byte), (__m512i)base,
                                              and_or);
#else
    weights = (VecF)((low & static_cast<std::uint32_t>(byte)) | (detail::Bits)base);
#endif
    weights -= base + kQuadOffset;
  } else {
    const auto shift = static_cast<std::int32_t>(24 - 8 * i);
    weights = __builtin_convertvector(quads << shift >> 24, VecF);
  }
  keep(weights);
  return weights;
}

/// sum = fma(x, w, sum).
CASA_INLINE void accumulate(VecI& sum, VecQuads x, VecQuads w) { sum = fma(x, w, sum); }

/// Four rows of kBytes weights, `stride` apart, as quads: the four weights of output i become
/// to[i].
CASA_INLINE void make_quads(const std::int8_t* row, Index stride, WeightQuad* to) {
  using Bytes = Vec<std::uint8_t>;
  using Words = Vec<std::uint16_t>;
  using Longs = Vec<std::int64_t>;
  Bytes r[4];
  CASA_UNROLL
  for (Index i = 0; i < 4; ++i) {
    r[i] = detail::load_as<Bytes>(row + i * stride);
    if constexpr (kQuadOffset != 0) r[i] ^= broadcast<std::uint8_t>(0x80);
  }
  const auto low01 = (Words)interleave_blocks<0>(r[0], r[1]);
  const auto high01 = (Words)interleave_blocks<1>(r[0], r[1]);
  const auto low23 = (Words)interleave_blocks<0>(r[2], r[3]);
  const auto high23 = (Words)interleave_blocks<1>(r[2], r[3]);
  // Of each block of 16 outputs, four in each vector.
  auto q0 = (Longs)interleave_blocks<0>(low01, low23),
       q1 = (Longs)interleave_blocks<1>(low01, low23);
  auto q2 = (Longs)interleave_blocks<0>(high01, high23),
       q3 = (Longs)interleave_blocks<1>(high01, high23);
  if constexpr (kBytes > 16) {
    merge_pair<2>(q0, q1);
    merge_pair<2>(q2, q3);
    if constexpr (kBytes > 32) {
      merge_pair<4>(q0, q2);
      merge_pair<4>(q1, q3);
    }
    std::swap(q1, q2);
  }
  constexpr Index step = kLanes<std::int32_t>;
  std::memcpy(static_cast<void*>(to), &q0, sizeof q0);
  std::memcpy(static_cast<void*>(to + step), &q1, sizeof q1);
  std::memcpy(static_cast<void*>(to + 2 * step), &q2, sizeof q2);
  std::memcpy(static_cast<void*>(to + 3 * step), &q3, sizeof q3);
}

namespace detail {

// Of each four lanes 0 2 1 3.
template <std::size_t... I>
CASA_INLINE VecF even_first(VecF v, std::index_sequence<I...>) {
  return __builtin_shufflevector(
      v, v,
      (static_cast<int>(I) / 4 * 4 + static_cast<int>(I) % 2 * 2 + static_cast<int>(I) / 2 % 2)...);
}

}  // namespace detail

/// Whole numbers in [-127, 127] as quads: lanes / 4 of them.
CASA_INLINE void store_quads(ValueQuad* to, VecF v) {
  if constexpr (!kMultipliesQuads) v = detail::even_first(v, detail::LaneSequence<float>{});
#if CASA_SIMD_AVX512
  const __m512i whole = _mm512_maskz_cvtps_epi32(0xffff, v);
#else
  const VecI whole = __builtin_convertvector(v, VecI);
#endif
  if constexpr (kMultipliesQuads) {
#if CASA_SIMD_AVX512
    const __m128i bytes = _mm512_maskz_cvtepi32_epi8(0xffff, whole);
#else
    const auto bytes = __builtin_convertvector(whole, detail::Quarter8);
#endif
    std::memcpy(static_cast<void*>(to), &bytes, sizeof bytes);
  } else {
    const detail::Half16 words = detail::narrow_bits((detail::Bits)whole);
    std::memcpy(static_cast<void*>(to), &words, sizeof words);
  }
}

}  // namespace simd

CASA_NAMESPACE_END
