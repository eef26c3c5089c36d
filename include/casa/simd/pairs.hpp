// Pairs of bfloat16 in the lanes of float: what machines with dot products of bfloat16 multiply at
// once. A sum in float gains both products.
#pragma once

#include "casa/simd/memory.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

/// Two bfloat16 side by side.
struct bfloat16_pair {
  bfloat16 first, second;
};

/// Values beside each other in an E, what is multiplied at once.
template <class E>
inline constexpr Index kUnit = std::is_same_v<E, bfloat16_pair> ? 2 : 1;

/// Whether one instruction multiplies pairs of S, at the price of a multiply-add of float.
template <class S>
inline constexpr bool kMultipliesPairs = CASA_SIMD_AVX512_BF16&& std::is_same_v<S, bfloat16>;

/// A pair in every lane of float, the first in its lower half.
using VecPairs = Vec<std::uint32_t>;
namespace detail {
template <>
struct VectorOf<bfloat16_pair> {
  using type = VecPairs;
};
}  // namespace detail

CASA_INLINE VecPairs load(const bfloat16_pair* p) { return detail::load_as<VecPairs>(p); }
CASA_INLINE void store(bfloat16_pair* p, VecPairs v) {
  std::memcpy(static_cast<void*>(p), &v, sizeof v);
}
CASA_INLINE VecPairs broadcast(bfloat16_pair x) {
  return broadcast(std::bit_cast<std::uint32_t>(x));
}

/// Lane by lane the sum of a pair's two products, and c. (Machines that multiply pairs take
/// subnormal numbers for 0.)
CASA_INLINE VecF fma(VecPairs a, VecPairs b, VecF c) {
#if CASA_SIMD_AVX512_BF16
  return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#else
  constexpr std::uint32_t second = 0xffff0000u;
  return fma((VecF)(a << 16), (VecF)(b << 16), fma((VecF)(a & second), (VecF)(b & second), c));
#endif
}
/// sum = fma(a, b, sum) in sum's own register.
CASA_INLINE void accumulate(VecF& sum, VecPairs a, VecPairs b) {
#if CASA_SIMD_AVX512_BF16
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
  sum = fma(a, b, sum);
#endif
}

namespace detail {

typedef std::uint16_t Words __attribute__((vector_size(kBytes)));

CASA_INLINE Words round_to_bfloat16(VecF a, VecF b) {
#if CASA_SIMD_AVX512_BF16
  return (Words)_mm512_cvtne2ps_pbh(b, a);
#else
  const Half16 halves[] = {float_to_bfloat16(a), float_to_bfloat16(b)};
  return load_as<Words>(halves);
#endif
}
template <int Stride, std::size_t... I>
CASA_INLINE VecPairs pair_up(Words v, std::index_sequence<I...>) {
  return (VecPairs)__builtin_shufflevector(
      v, v,
      ((static_cast<int>(I) / (2 * Stride) * 2 + static_cast<int>(I) % 2) * Stride +
       static_cast<int>(I) / 2 % Stride)...);
}
// Inside blocks of 128 bits: the lower (High = 0) or upper values of a and b in turn.
template <int High, std::size_t... I>
CASA_INLINE VecPairs interleave(Words a, Words b, std::index_sequence<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I));
  return (VecPairs)__builtin_shufflevector(
      a, b,
      (static_cast<int>(I) / 8 * 8 + High * 4 + static_cast<int>(I) % 8 / 2 +
       static_cast<int>(I) % 2 * n)...);
}

}  // namespace detail

/// Of the lanes of a, then b, rounded to bfloat16, those that lie Stride apart as pairs: lane i of
/// 2 Stride meets lane i + Stride.
template <int Stride>
CASA_INLINE VecPairs to_pairs(VecF a, VecF b) {
  return detail::pair_up<Stride>(detail::round_to_bfloat16(a, b),
                                 detail::LaneSequence<std::uint16_t>{});
}

/// The next lanes values of two rows: (a[i], b[i]) in lane i.
CASA_INLINE VecPairs load_rows(const bfloat16* a, const bfloat16* b) {
  return detail::widen_bits(detail::load_as<detail::Half16>(a)) |
         detail::widen_bits(detail::load_as<detail::Half16>(b)) << 16;
}
/// The next 2 lanes values of two rows, in blocks of four: the first has those that come first in
/// every eight, the second those that follow; merge_pair<4>() puts what was computed of them into
/// order.
CASA_INLINE void load_rows(const bfloat16* a, const bfloat16* b, VecPairs& first,
                           VecPairs& second) {
  const auto p = detail::load_as<detail::Words>(a), q = detail::load_as<detail::Words>(b);
  first = detail::interleave<0>(p, q, detail::LaneSequence<std::uint16_t>{});
  second = detail::interleave<1>(p, q, detail::LaneSequence<std::uint16_t>{});
}

}  // namespace simd

CASA_NAMESPACE_END
