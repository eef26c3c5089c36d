// Across the lanes of vectors: reductions, transposition.
#pragma once

#include "casa/simd/vector.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

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
  return reduce(v, [](V a, V b) { return (max)(a, b); })[0];
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
// Which lane of two vectors (the second one's counted from `lanes` on) is lane i of the left or
// right summands when neighbours are added: every Group units of Unit lanes give the sums of the
// first vector's pairs of units, then of the second one's.
template <int Unit, int Group>
constexpr int summand(int i, bool right, int lanes) {
  const int begin = i / (Unit * Group) * (Unit * Group), unit = i / Unit % Group, pairs = Group / 2;
  return begin + (unit % pairs * 2 + right) * Unit + i % Unit + (unit < pairs ? 0 : lanes);
}
template <int Unit, int Group, class V, std::size_t... I>
CASA_INLINE V add_neighbours(V a, V b, std::index_sequence<I...>) {
  constexpr int lanes = static_cast<int>(sizeof...(I));
  return __builtin_shufflevector(a, b, summand<Unit, Group>(static_cast<int>(I), false, lanes)...) +
         __builtin_shufflevector(a, b, summand<Unit, Group>(static_cast<int>(I), true, lanes)...);
}
// Inside blocks of 128 bits first, while there are many vectors: such shuffles cost least.
template <class V, std::size_t N>
CASA_INLINE V add_lanes(const V (&v)[N]) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    constexpr int lanes = static_cast<int>(kLanes<Element<V>>);
    constexpr int block = 16 / static_cast<int>(sizeof(Element<V>));
    constexpr int unit = N > lanes / block ? 1 : block;
    constexpr int group = unit == 1 ? block : lanes / block;
    V half[N / 2];
    CASA_UNROLL
    for (std::size_t i = 0; i < N / 2; ++i)
      half[i] = add_neighbours<unit, group>(v[2 * i], v[2 * i + 1], LaneSequence<Element<V>>{});
    return add_lanes(half);
  }
}

// Which lane of two vectors (the second one's counted from `lanes` on) is lane i of those in turn.
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

// What merged() undoes.
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

/// Lane i: the sum of the lanes of v[i].
template <class V, std::size_t N>
CASA_INLINE V add_lanes(const V (&v)[N]) {
  static_assert(N == static_cast<std::size_t>(kLanes<Element<V>>));
  return detail::add_lanes(v);
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

/// The lanes of a and b in turn, Unit of each: a[0], b[0], a[1], ... in a, then b.
template <int Unit = 1, class V>
CASA_INLINE void merge_pair(V& a, V& b) {
  detail::merge_pair<Unit>(a, b, detail::LaneSequence<Element<V>>{});
}

/// The even lanes (or Units of them) of a, then b, in a; their odd ones in b.
template <int Unit = 1, class V>
CASA_INLINE void split_pair(V& a, V& b) {
  detail::split_pair<Unit>(a, b, detail::LaneSequence<Element<V>>{});
}

/// The square of N vectors of N lanes, transposed in registers.
template <class V, std::size_t N>
CASA_INLINE void transpose(V (&v)[N]) {
  static_assert(N == static_cast<std::size_t>(kLanes<Element<V>>));
  detail::transpose_steps<1>(v);
}

}  // namespace simd

CASA_NAMESPACE_END
