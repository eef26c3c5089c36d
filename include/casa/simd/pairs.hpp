// Pairs of bfloat16 in the lanes of float: what machines with dot products of bfloat16 multiply at
// once. A sum in float gains both products.
#pragma once

#include "casa/simd/lane_order.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

/// Two bfloat16 side by side.
struct bfloat16_pair {
  bfloat16 first;   ///< at the lower address: the lower half of a lane
  bfloat16 second;  ///< the upper half
};

/// The number of values that one element of type E holds and one lane multiplies at once: 2 for
/// pairs, else 1. Depths and keys are counted in such units.
template <class E>
inline constexpr Index kUnit = std::is_same_v<E, bfloat16_pair> ? 2 : 1;

/// Whether the machine multiplies pairs of S in one instruction that is as fast as a multiply-add
/// of float (AVX-512 BF16).
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
  return broadcast(casa::detail::bit_cast<std::uint32_t>(x));
}

/// c + a.first * b.first + a.second * b.second, lane by lane. (The instruction treats subnormal
/// numbers as 0.)
CASA_INLINE VecF fma(VecPairs a, VecPairs b, VecF c) {
#if CASA_SIMD_AVX512_BF16
  return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#else
  constexpr std::uint32_t second = 0xffff0000u;
  return fma((VecF)(a << 16), (VecF)(b << 16), fma((VecF)(a & second), (VecF)(b & second), c));
#endif
}
/// sum = fma(a, b, sum), kept in sum's own register (see accumulate() in vector.hpp).
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
// For 8 words: Stride 1 is 0 1 2 3 4 5 6 7, Stride 2 is 0 2 1 3 4 6 5 7, Stride 4 is 0 4 1 5 2 6
// 3 7.
template <int Stride, std::size_t... I>
CASA_INLINE VecPairs pair_up(Words v, std::index_sequence<I...>) {
  return (VecPairs)__builtin_shufflevector(
      v, v,
      ((static_cast<int>(I) / (2 * Stride) * 2 + static_cast<int>(I) % 2) * Stride +
       static_cast<int>(I) / 2 % Stride)...);
}
}  // namespace detail

/// The lanes of a, then b, are rounded to bfloat16; in every 2 Stride of them value i becomes a
/// pair with value i + Stride. Stride 1 pairs neighbours (two dimensions of a query), Stride =
/// lanes pairs a[i] with b[i] (the weights of two keys).
template <int Stride>
CASA_INLINE VecPairs to_pairs(VecF a, VecF b) {
  return detail::pair_up<Stride>(detail::round_to_bfloat16(a, b),
                                 detail::LaneSequence<std::uint16_t>{});
}

/// The next lanes values of two rows as pairs, in memory's order: (a[i], b[i]) in lane i.
CASA_INLINE VecPairs load_rows(const bfloat16* a, const bfloat16* b) {
  return detail::widen_bits(detail::load_as<detail::Half16>(a)) |
         detail::widen_bits(detail::load_as<detail::Half16>(b)) << 16;
}
/// The next 2 lanes values of two rows as pairs, in the order drawn in lane_order.hpp:
/// merge_pair<4>() puts what was computed of them into memory's order.
CASA_INLINE void load_rows(const bfloat16* a, const bfloat16* b, VecPairs& first,
                           VecPairs& second) {
  const auto p = detail::load_as<detail::Words>(a), q = detail::load_as<detail::Words>(b);
  first = (VecPairs)interleave_blocks<0>(p, q);
  second = (VecPairs)interleave_blocks<1>(p, q);
}

}  // namespace simd

CASA_NAMESPACE_END
