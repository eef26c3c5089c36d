// The order in which vectors hold what was loaded, and the way back: everything about lanes that do
// not lie in memory's order stands here.
//
// A load of 16-bit values is cheapest when it takes two vectors of float at once and lets the
// values fall where the instructions put them. The kernels do not sort them after each load: they
// bring the other operand into the same order once, or put the result into order at the end.
//
// The value of memory (0, 1, 2, ...) that each lane holds, drawn for vectors of 8 lanes (AVX2):
//
//                                            lane    0   1   2   3   4   5   6   7
//   load_two of float, double, half         first    0   1   2   3   4   5   6   7
//                                          second    8   9  10  11  12  13  14  15
//   load_two of bfloat16                    first    0   2   4   6   8  10  12  14
//     (kLoadsPairs: a shift, a mask)       second    1   3   5   7   9  11  13  15
//   load_rows of bfloat16 pairs             first    0   1   2   3   8   9  10  11
//     (lane: that value of both rows)      second    4   5   6   7  12  13  14  15
//
//   merge_pair<1> puts the second of these into the order of the first, merge_pair<4> the third.
//   split_pair<1>, split_pair<4> do the reverse.
//
// Where this matters:
//   scores of a narrow panel   queries are packed as load_two will give the keys (pack_narrow)
//   sums of values             the result is merged, by kMergeUnit (sum_tiles.hpp)
//   weights of a Linear        panels are stored so that load_two gives outputs in order
//                              (PanelFormat); load_rows does not, so tiles of pairs bring their
//                              sums from outputs' order into its order and back (multiply_tile)
//
// kUnit (pairs.hpp) says how many values one lane multiplies at once: 1, or 2 for pairs.
#pragma once

#include "casa/simd/memory.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

namespace detail {

// For lanes 8 and Unit 1: 0 8 1 9 2 10 3 11, then 4 12 5 13 6 14 7 15, where 8 is lane 0 of the
// second vector.
template <int Unit>
constexpr int merged(int i, int lanes) {
  return i / (2 * Unit) * Unit + i % Unit + i / Unit % 2 * lanes;
}
template <int Unit, class V, std::size_t... I>
CASA_INLINE void merge_pair(V& a, V& b, std::index_sequence<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I));
  const V low = __builtin_shufflevector(a, b, merged<Unit>(static_cast<int>(I), n)...);
  b = __builtin_shufflevector(a, b, merged<Unit>(n + static_cast<int>(I), n)...);
  a = low;
}

// The inverse. For lanes 8 and Unit 1: 0 2 4 6 8 10 12 14; the odd ones are Unit further.
template <int Unit>
constexpr int split(int i) {
  return i / Unit * 2 * Unit + i % Unit;
}
template <int Unit, class V, std::size_t... I>
CASA_INLINE void split_pair(V& a, V& b, std::index_sequence<I...>) {
  const V even = __builtin_shufflevector(a, b, split<Unit>(static_cast<int>(I))...);
  b = __builtin_shufflevector(a, b, (Unit + split<Unit>(static_cast<int>(I)))...);
  a = even;
}

}  // namespace detail

/// Interleaves a and b, Unit lanes of each in turn: a[0] b[0] a[1] b[1] ... for Unit 1; the first
/// half of that goes into a, the second into b.
template <int Unit = 1, class V>
CASA_INLINE void merge_pair(V& a, V& b) {
  detail::merge_pair<Unit>(a, b, detail::LaneSequence<Element<V>>{});
}

/// The inverse of merge_pair<Unit>: of the lanes of a and then b, the even groups of Unit lanes go
/// into a, the odd ones into b.
template <int Unit = 1, class V>
CASA_INLINE void split_pair(V& a, V& b) {
  detail::split_pair<Unit>(a, b, detail::LaneSequence<Element<V>>{});
}

namespace detail {

template <int High, class V, std::size_t... I>
CASA_INLINE V interleave_blocks(V a, V b, std::index_sequence<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I)), block = 16 / static_cast<int>(sizeof(a[0]));
  return __builtin_shufflevector(
      a, b,
      (static_cast<int>(I) / block * block + High * (block / 2) + static_cast<int>(I) % block / 2 +
       static_cast<int>(I) % 2 * n)...);
}

}  // namespace detail

/// Of each block of 128 bits the lower (High 0) or upper (High 1) half of its lanes, one of a and
/// one of b in turn. For one block of 8 lanes and High 0: a0 b0 a1 b1 a2 b2 a3 b3.
template <int High, class V>
CASA_INLINE V interleave_blocks(V a, V b) {
  return detail::interleave_blocks<High>(a, b, detail::LaneSequence<Element<V>>{});
}

/// Whether load_two() of S gives even and odd values instead of the first and second half.
template <class S>
inline constexpr bool kLoadsPairs = std::is_same_v<S, bfloat16>;

/// The 2 lanes values from p on, widened, in the order drawn above.
template <class S, class V>
CASA_INLINE void load_two(const S* p, V& first, V& second) {
  if constexpr (kLoadsPairs<S>) {
    auto both = detail::load_as<detail::Bits>(p);
    keep(both);
    first = (VecF)(both << 16);
    second = (VecF)(both & 0xffff0000u);
  } else {
    first = load(p);
    second = load(p + kLanes<Element<V>>);
  }
}

}  // namespace simd

CASA_NAMESPACE_END
