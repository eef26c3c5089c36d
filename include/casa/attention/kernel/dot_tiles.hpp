// The innermost loops of scores: dot products of keys and a panel of queries.
//
// A wide panel is N vectors wide: its rows are lanes, and one value of a key is broadcast to all of
// them. A narrow panel holds few rows (decode, remainders): its lanes are dimensions, a vector of a
// key meets that of each row, and each dot product is the sum of a vector's lanes in the end.
#pragma once

#include <algorithm>

#include "casa/attention/kernel/prefetcher.hpp"
#include "casa/attention/kernel/strided_rows.hpp"
#include "casa/core/interval.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

template <class V, int N>
using Row = V[static_cast<std::size_t>(N)];
template <class V, int M, int N>
using Tile = Row<V, N>[static_cast<std::size_t>(M)];

/// A dot product of a wide panel is the sum of at least two shorter ones, none of more than kChain
/// terms, which keeps its rounding error within that of a pairwise sum. With 32 registers two
/// accumulate side by side (kSums), otherwise one after the other.
inline constexpr int kSums = simd::kRegisters == 32 ? 2 : 1;
inline constexpr Index kChain = 64;
/// Keys of a tile of scores, so that keys x N vectors x kSums accumulators fit the registers.
template <int N>
inline constexpr int kTileKeys = N == 1   ? 8
                                 : N == 2 ? 6
                                          : 4;
inline constexpr int kMaxTileKeys =
    16;  ///< of any tile: a narrow panel of one row takes a key a lane
/// Dimensions in a turn of the loop of a tile of scores.
inline constexpr int kScoreSteps = 4;

/// The type of sums of products of Q: float for pairs of bfloat16, else Q.
template <class Q>
using SumOf = std::conditional_t<std::is_same_v<Q, simd::bfloat16_pair>, float, Q>;

/// Keys that a narrow panel of so many rows multiplies at once. One or two rows wait for memory; of
/// more, each vector of queries that is loaded meets two keys. (Over 1,024 keys in cache, a Zen 5:
/// 3 float rows took 1.44 times the time of two with one key, 1.33 with two; 5 rows 1.75 and 1.61.)
constexpr int keys_at_once(Index rows) { return rows <= 2 ? 1 : 2; }

/// acc[m][n] = the sum over units (dimensions or pairs of them) of key m's value times vector n of
/// the wide panel's queries, whose first unit is at q.
template <int M, int N, class Q, class V>
CASA_INLINE void dot_tile(const Q* const* keys, Interval units, const Q* q, FetchCursor& ahead,
                          Tile<V, M, N>& acc) {
  const Index begin = units.begin, count = units.end - units.begin;
  constexpr Index lanes = simd::kLanes<Q>;
  Row<const Q*, M> k;
  constexpr int sums = kSums;
  Row<Tile<V, M, N>, sums> sum;
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    k[m] = keys[m] + begin;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      CASA_UNROLL
      for (int s = 0; s < sums; ++s) {
        sum[s][m][n] = V{};
        simd::keep(sum[s][m][n]);
      }
    }
  }
  const auto step = [&]<int Sum>(Index i) __attribute__((always_inline)) {
    Row<simd::Loaded<Q>, N> b;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) b[n] = simd::load(q + n * lanes);
    q += N * lanes;
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      const auto a = simd::broadcast(k[m][i]);
      CASA_UNROLL
      for (int n = 0; n < N; ++n) simd::accumulate(sum[Sum][m][n], a, b[n]);
    }
  };
  Index i = 0;
  if (count >= kScoreSteps) {
    simd::align_loop(i);
    CASA_NO_UNROLL
    do {
      CASA_UNROLL
      for (int u = 0; u < kScoreSteps; u += 2) {
        step.template operator()<0>(i + u);
        step.template operator()<sums - 1>(i + u + 1);
      }
      fetch_turn<kScoreLines>(ahead);
      i += kScoreSteps;
    } while (i + kScoreSteps <= count);
  }
  CASA_NO_UNROLL
  for (; i < count; ++i) step.template operator()<0>(i);
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      acc[m][n] = sum[0][m][n];
      if constexpr (sums == 2) acc[m][n] += sum[1][m][n];
    }
  }
}

/// The same of all units, in two or more calls of dot_tile so that no sum is longer than kChain.
/// The sums so far are on the stack meanwhile, as registers are taken.
template <int M, int N, class Q, class V>
CASA_INLINE void dot_parts(const Q* const* keys, const Q* q, Index count, FetchCursor& ahead,
                           Tile<V, M, N>& acc) {
  const Index parts = (std::max<Index>)(2, (count + kSums * kChain - 1) / (kSums * kChain));
  const Index size = count / (2 * parts) * 2;
  dot_tile<M, N>(keys, {0, size}, q, ahead, acc);
  Index begin = size;
  CASA_NO_UNROLL
  for (Index part = 1; part < parts; ++part) {
    Tile<V, M, N> parked;
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n) parked[m][n] = acc[m][n];
    }
    const Index end = part + 1 < parts ? begin + size : count;
    dot_tile<M, N>(keys, {begin, end}, q + begin * N * simd::kLanes<Q>, ahead, acc);
    begin = end;
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n) acc[m][n] += parked[m][n];
    }
  }
}

/// The queries of a narrow panel, of `units` values or pairs of them.
template <class Q>
struct NarrowQueries {
  const Q* q;
  Index units;
  Index near;  ///< keys are prefetched so many bytes ahead; 0 with a list of pointers: not at all
  Index near_per_key = 0;  ///< and so many more with each key
};

/// The dot products of K keys, from key j on, and the first R rows of a narrow panel of W, each
/// still a vector of partial sums: dots[k * W + r]. The others are 0.
template <int K, int R, int W, class Rows, class Q, class V>
CASA_INLINE void narrow_dots(Rows keys, Index j, NarrowQueries<Q> queries, V* dots) {
  const Q* q = queries.q;
  const Index units = queries.units, near = queries.near;
  using E = Value<Rows>;
  using Factor = simd::Loaded<Q>;
  constexpr Index lanes = simd::kLanes<Q>;
  constexpr int sums = K * R <= 4 ? 2 : 1;  // enough sums to hide the latency of a multiply-add
  constexpr int steps = K * R <= 2 ? 4 : 2;
  Row<const E*, K> key;
  Row<Tile<V, K, R>, sums> sum;
  CASA_UNROLL
  for (int k = 0; k < K; ++k) {
    key[k] = keys[j + k];
    CASA_UNROLL
    for (int s = 0; s < sums; ++s) {
      CASA_UNROLL
      for (int r = 0; r < R; ++r) sum[s][k][r] = V{};
    }
  }
  // One vector of each of the one or two keys. (Of an array of them g++ 12 would keep a copy in
  // memory.)
  const auto step = [&]<int Sum>(Factor first, Factor second) __attribute__((always_inline)) {
    if constexpr (K > 1) {
      simd::keep(first);
      simd::keep(second);
    }
    CASA_UNROLL
    for (int r = 0; r < R; ++r) {
      Factor b = simd::load(q + r * lanes);
      if constexpr (K > 1) simd::keep(b);
      auto& dot = sum[Sum % sums];
      dot[0][r] = simd::fma(first, b, dot[0][r]);
      if constexpr (K > 1) dot[1][r] = simd::fma(second, b, dot[1][r]);
    }
    q += W * lanes;
  };
  const auto two_steps = [&](Index i) __attribute__((always_inline)) {
    Factor even, odd, even_of_last, odd_of_last;
    simd::load_two(key[0] + i, even, odd);
    simd::load_two(key[K - 1] + i, even_of_last, odd_of_last);
    step.template operator()<0>(even, even_of_last);
    step.template operator()<1>(odd, odd_of_last);
  };
  const auto one_step = [&](auto load) __attribute__((always_inline)) {
    step.template operator()<0>(load(key[0]), load(key[K - 1]));
  };
  // The lines that `Count` dimensions from i on stand for: two keys' lines are prefetched in
  // memory's order, first all of key 0, then of key 1.
  const auto fetch = [&]<int Count>(Index i) __attribute__((always_inline)) {
    if (kIsStrided<Rows> || near != 0) {
      const Index at = K * i;
      const bool first = at < units || queries.near_per_key != 0;  // (both keys' are contiguous)
      fetch_near<K * Count>(first ? key[0] + at : key[K - 1] + (at - units), near);
    }
  };
  Index i = 0;
  CASA_NO_UNROLL
  for (; i + steps * lanes <= units; i += steps * lanes) {
    fetch.template operator()<steps * lanes>(i);
    CASA_UNROLL
    for (int u = 0; u < steps; u += 2) two_steps(i + u * lanes);
  }
  if (steps > 2 && i + 2 * lanes <= units) {
    fetch.template operator()<2 * lanes>(i);
    two_steps(i);
    i += 2 * lanes;
  }
  if (i < units) {
    fetch.template operator()<lanes>(i);
    if (i + lanes <= units) one_step([&](const E* k) { return simd::load(k + i); }), i += lanes;
    if (i < units) one_step([&](const E* k) { return simd::load_partial(k + i, units - i); });
  }
  CASA_UNROLL
  for (int k = 0; k < K; ++k) {
    CASA_UNROLL
    for (int r = 0; r < R; ++r) {
      dots[k * W + r] = sum[0][k][r];
      if constexpr (sums == 2) dots[k * W + r] += sum[1][k][r];
    }
    CASA_UNROLL
    for (int r = R; r < W; ++r) dots[k * W + r] = V{};
  }
}

/// The same of Count keys, in calls of one or two.
template <int Count, int R, int W, class Rows, class Q, class V>
CASA_INLINE void narrow_parts(Rows keys, Index j, NarrowQueries<Q> queries, V* part) {
  if constexpr (std::is_same_v<Rows, StridedRows<Q>>) {  // so that each turn's addresses are the
                                                         // last ones plus a stride
    CASA_NO_UNROLL
    for (int k = 0; k < Count; ++k) {
      narrow_dots<1, R, W>(keys, j + k, queries, part + k * W);
      queries.near += queries.near_per_key;
    }
  } else {
    constexpr int together = keys_at_once(R);
    CASA_UNROLL
    for (int k = 0; k < Count; k += together) {
      narrow_dots<together, R, W>(keys, j + k, queries, part + k * W);
      queries.near += together * queries.near_per_key;
    }
  }
}

/// The scores of keys [j, j + lanes / W) for a narrow panel of W rows: one vector, lane k * W + r.
/// Only the first R rows are multiplied, the lanes of others hold 0.
template <int R, int W, class Rows, class Q>
CASA_INLINE auto narrow_scores(Rows keys, Index j, NarrowQueries<Q> queries) {
  constexpr int lanes = static_cast<int>(simd::kLanes<Q>);
  Row<simd::Vec<SumOf<Q>>, lanes> part;
  narrow_parts<lanes / W, R, W>(keys, j, queries, part);
  return simd::add_lanes(part);
}

}  // namespace detail

CASA_NAMESPACE_END
