// Across the lanes of vectors: reductions, sums of many vectors at once, transposition.
#pragma once

#include "casa/simd/vector.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

/// Every lane becomes op over all lanes, as a tree: the order is the same in every build of one
/// vector width.
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

// One step of a transposition: of every 2 Step lanes of a and b, a's second Step lanes change
// places with b's first. For 8 lanes and Step 2: a = a0 a1 b0 b1 a4 a5 b4 b5, b = a2 a3 b2 b3 a6 a7
// b6 b7.
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
// add_neighbours adds units of Unit lanes that lie beside each other. In every Group units of the
// result the first half are sums of a's units, the second half of b's. For 8 lanes, Unit 1, Group 4
// (inside blocks of 128 bits): a0+a1 a2+a3 b0+b1 b2+b3 | a4+a5 a6+a7 b4+b5 b6+b7; summand() gives
// the lane of the left or the right term (lanes of b are counted from `lanes` on).
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
// Halves the number of vectors until one is left. While there are many, neighbours are added inside
// blocks of 128 bits (a shuffle of half a cycle); only the last steps cross the blocks.
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

/// N sums at once: lane i of the result is the sum of all lanes of v[i].
template <class V, std::size_t N>
CASA_INLINE V add_lanes(const V (&v)[N]) {
  static_assert(N == static_cast<std::size_t>(kLanes<Element<V>>));
  return detail::add_lanes(v);
}
/// Lanes i, i + Stride, i + 2 Stride, ... each become op over all of them.
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

}  // namespace simd

CASA_NAMESPACE_END
