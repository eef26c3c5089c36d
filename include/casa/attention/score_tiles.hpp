// The inner loops of the attention kernel, first half: scores of a block and softmax weights.
//
// Queries are packed into panels. A wide panel is N vectors wide: its rows are lanes, and one value
// of a key is broadcast to all of them. A narrow panel holds few rows (decode, remainders): its
// lanes are dimensions, a vector of a key meets that of each row, and each dot product is the sum
// of a vector's lanes in the end. Scores lie as (key, row): a vector holds the rows of one key, or
// of several.
#pragma once

#include <algorithm>
#include <limits>

#include "casa/attention/prefetcher.hpp"
#include "casa/attention/strided_rows.hpp"
#include "casa/core/interval.hpp"
#include "casa/core/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

template <class V, int N>
using Row = V[static_cast<std::size_t>(N)];
template <class V, int M, int N>
using Tile = Row<V, N>[static_cast<std::size_t>(M)];

template <class T>
using Lane = simd::detail::IntOf<T>;  // what limits of keys are counted in, as wide as T

/// A dot product is summed in two parts, which halves its rounding error: side by side where there
/// are registers for both, else one after the other.
inline constexpr int kSums = simd::kRegisters == 32 ? 2 : 1;
/// Keys in a tile of scores: keys x N vectors x kSums accumulators fit the registers.
template <int N>
inline constexpr int kTileKeys = N == 1   ? 8
                                 : N == 2 ? 6
                                          : 4;
inline constexpr int kMaxTileKeys = 16;  ///< those of a narrow panel of one row
/// Steps in a turn of a tile's loop.
inline constexpr int kScoreSteps = 4;

/// What queries and weights are multiplied as: the kernel's scalar, or pairs of bfloat16, whose
/// sums are float.
template <class Q>
using SumOf = std::conditional_t<std::is_same_v<Q, simd::bfloat16_pair>, float, Q>;

/// Whether so many query rows wait for memory rather than for arithmetic: they make few
/// multiply-adds of a byte of keys or values of type E.
template <class E>
constexpr bool waits_for_memory(Index rows) {
  return rows < 2 * static_cast<Index>(sizeof(E));
}

/// acc[m][n] = sum over dimensions (or pairs of them) [begin, begin + count) of key m's values
/// times the panel's vector n.
template <int M, int N, class Q, class V>
CASA_INLINE void dot_tile(const Q* const* keys, Index begin, const Q* q, Index count,
                          FetchCursor& ahead, Tile<V, M, N>& acc) {
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

/// The same in two halves, the first parked on the stack meanwhile.
template <int M, int N, class Q, class V>
CASA_INLINE void dot_halves(const Q* const* keys, const Q* q, Index count, FetchCursor& ahead,
                            Tile<V, M, N>& acc) {
  const Index half = count / 4 * 2;
  dot_tile<M, N>(keys, 0, q, half, ahead, acc);
  Tile<V, M, N> parked;
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) parked[m][n] = acc[m][n];
  }
  dot_tile<M, N>(keys, half, q + half * N * simd::kLanes<Q>, count - half, ahead, acc);
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) acc[m][n] += parked[m][n];
  }
}

/// The dot products of K keys and the R rows of a narrow panel: of (key, row), a vector of parts
/// each. Keys (`units` values or pairs) are read as they lie; `near`: what is fetched lies so many
/// bytes ahead.
template <int K, int R, class Rows, class Q, class V>
CASA_INLINE void narrow_dots(Rows keys, Index j, const Q* q, Index units, Index near, V* dots) {
  using E = Value<Rows>;
  using Factor = simd::Loaded<Q>;
  constexpr Index lanes = simd::kLanes<Q>;
  constexpr int sums = K * R <= 4 ? 2 : 1;  // enough of them to hide the latency
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
  // (One vector of each key; not an array of them, which g++ 12 would store all the same.)
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
    q += R * lanes;
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
  Index i = 0;
  CASA_NO_UNROLL
  for (; i + steps * lanes <= units; i += steps * lanes) {
    const Index at = K * i;  // lines are asked for in the order of memory
    fetch_near<K * steps * lanes>(at < units ? key[0] + at : key[K - 1] + (at - units), near);
    CASA_UNROLL
    for (int u = 0; u < steps; u += 2) two_steps(i + u * lanes);
  }
  if (steps > 2 && i + 2 * lanes <= units) two_steps(i), i += 2 * lanes;
  if (i + lanes <= units) one_step([&](const E* k) { return simd::load(k + i); }), i += lanes;
  if (i < units) one_step([&](const E* k) { return simd::load_partial(k + i, units - i); });
  CASA_UNROLL
  for (int k = 0; k < K; ++k) {
    CASA_UNROLL
    for (int r = 0; r < R; ++r) {
      dots[k * R + r] = sum[0][k][r];
      if constexpr (sums == 2) dots[k * R + r] += sum[1][k][r];
    }
  }
}

/// The scores of a vector of (key, row) for a narrow panel of R rows: keys [j, j + lanes / R).
template <int R, class Rows, class Q>
CASA_INLINE auto narrow_scores(Rows keys, Index j, const Q* q, Index units, Index near) {
  constexpr int lanes = static_cast<int>(simd::kLanes<Q>);
  Row<simd::Vec<SumOf<Q>>, lanes> part;
  if constexpr (std::is_same_v<Rows, StridedRows<Q>>) {  // every load of the loop steps by one key
    CASA_NO_UNROLL
    for (int k = 0; k < lanes / R; ++k)
      narrow_dots<1, R>(keys, j + k, q, units, near, part + k * R);
  } else {
    constexpr int together = waits_for_memory<Value<Rows>>(R) ? 1 : 2;
    CASA_UNROLL
    for (int k = 0; k < lanes / R; k += together)
      narrow_dots<together, R>(keys, j + k, q, units, near, part + k * R);
  }
  return simd::add_lanes(part);
}

/// The keys that the rows of a panel see, relative to the first key of the panel's part of a block.
template <class T>
struct Visible {
  Index unmasked_begin = 0;  ///< seen by every row: [unmasked_begin, unmasked_end)
  Index unmasked_end = 0;
  const Lane<T>* begin = nullptr;  ///< per lane (a narrow panel's later keys already subtracted)
  const Lane<T>* end = nullptr;
};

/// One tile of scores, of the keys from `key` on: stored, masked where a row must not see, folded
/// into the running maximum. R: rows of a narrow panel, whose M keys fill one vector; 0: a wide
/// one.
template <int M, int N, int R, class Rows, class Q, class T>
CASA_INLINE void score_tile(Rows keys, const Q* q, Index units, Index key, T* scores,
                            const Visible<T>& visible, Prefetcher& prefetcher,
                            [[maybe_unused]] Index near, Row<simd::Vec<T>, N>& max) {
  using V = simd::Vec<T>;
  constexpr int groups = R > 0 ? 1 : M;
  Tile<V, groups, N> row;
  if constexpr (R > 0) {
    row[0][0] = narrow_scores<R>(keys, key, q, units, near);
  } else {
    FetchCursor ahead = prefetcher.take(units / kScoreSteps, kScoreSteps * M * N, kScoreLines, q);
    if constexpr (kSums == 2)
      dot_tile<M, N>(keys + key, 0, q, units, ahead, row);
    else
      dot_halves<M, N>(keys + key, q, units, ahead, row);
  }
  if (key < visible.unmasked_begin || key + M > visible.unmasked_end) {
    const V none = simd::broadcast(-std::numeric_limits<T>::infinity());
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const auto begin =
          simd::detail::load_as<simd::IntVec<T>>(visible.begin + n * simd::kLanes<T>);
      const auto end = simd::detail::load_as<simd::IntVec<T>>(visible.end + n * simd::kLanes<T>);
      CASA_UNROLL
      for (int g = 0; g < groups; ++g) {
        const auto at = simd::broadcast(static_cast<Lane<T>>(key + g));
        row[g][n] = simd::select((at >= begin) & (at < end), row[g][n], none);
      }
    }
  }
  CASA_UNROLL
  for (int g = 0; g < groups; ++g) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      max[n] = simd::max(row[g][n], max[n]);
      simd::store(scores + (g * N + n) * simd::kLanes<T>, row[g][n]);
    }
  }
}

/// The most vectors of a panel.
inline constexpr int kMaxVectors = 3;

/// A panel of queries and the softmax state of its rows. Arrays of N vectors where not said
/// otherwise.
template <class T>
struct Panel {
  int vectors = 1;  ///< N
  int narrow = 0;   ///< rows of a narrow panel, a power of two; 0: a wide one
  Index first = 0;  ///< its first row among the job's rows
  Index rows = 0;   ///< rows that exist (the others repeat the last one)
  Interval seen;    ///< the keys that one of them sees
  /// values or pairs of them: (units, vectors * lanes), or (units / lanes, narrow, lanes)
  void* q = nullptr;
  T* max = nullptr;
  T* sum = nullptr;
  T* rescale = nullptr;      ///< factor of this block for what was summed before
  T* scores = nullptr;       ///< (keys, width), then weights: see weights()
  Lane<T>* begin = nullptr;  ///< Visible::begin, end
  Lane<T>* end = nullptr;

  Index width() const { return narrow > 0 ? narrow : vectors * simd::kLanes<T>; }
  /// (keys, width), or (pairs of keys, width)
  template <class W>
  W* weights() const {
    return static_cast<W*>(static_cast<void*>(scores));
  }
};

/// Scores of `count` keys in base 2, and the largest of each lane. keys[count ..] repeats the last
/// key up to a whole tile.
template <int N, int R, class Q, class Rows, class T>
CASA_INLINE void score_block(const Panel<T>& panel, Rows keys, Index count, Index head_dim,
                             const Visible<T>& visible, Prefetcher& prefetcher,
                             Row<simd::Vec<T>, N>& max) {
  constexpr Index lanes = simd::kLanes<T>;
  constexpr int M = R > 0 ? static_cast<int>(lanes) / R : kTileKeys<N>;
  constexpr int width = R > 0 ? R : N * static_cast<int>(lanes);
  CASA_UNROLL
  for (int n = 0; n < N; ++n) max[n] = simd::broadcast(-std::numeric_limits<T>::infinity());
  const Q* q = static_cast<const Q*>(panel.q);
  const Index units = head_dim / kUnit<Q>;
  const Index near = R > 0 ? run_distance(keys, count, units) : 0;
  Index j = 0;
  for (; j < count; j += M) {
    if constexpr (M > 4 && R == 0) {
      if (count - j <= M / 2) {
        score_tile<M / 2, N, R>(keys, q, units, j, panel.scores + j * width, visible, prefetcher,
                                near, max);
        continue;
      }
    }
    score_tile<M, N, R>(keys, q, units, j, panel.scores + j * width, visible, prefetcher, near,
                        max);
  }
  if constexpr (kUnit<Q> == 2) {  // the last pair may have but one key
    CASA_UNROLL
    for (int n = 0; n < N; ++n)
      simd::store(panel.scores + (R > 0 ? j : count) * width + n * lanes,
                  simd::broadcast(-std::numeric_limits<T>::infinity()));
  }
}

/// A block's scores become weights 2^(score - max) in their place (W: pairs of keys' weights are
/// rounded and lie side by side); updates max, sum and rescale. Weights of masked keys are 0.
template <int N, int R, class W, class T>
CASA_INLINE void weigh_block(const Panel<T>& panel, Index count, bool first,
                             const Row<simd::Vec<T>, N>& max) {
  using V = simd::Vec<T>;
  constexpr Index lanes = simd::kLanes<T>;
  constexpr int width = R > 0 ? R : N * static_cast<int>(lanes);
  const V none = simd::broadcast(-std::numeric_limits<T>::infinity());
  Row<V, N> base, sum;
  CASA_UNROLL
  for (int n = 0; n < N; ++n) {
    V m = simd::reduce_strided<width>(max[n], [](V a, V b) { return simd::max(a, b); });
    const V old = first ? none : simd::load(panel.max + n * lanes);
    m = simd::max(old, m);
    base[n] =
        simd::select(m == none, V{}, m);  // a row that has seen nothing: -inf - 0, not -inf + inf
    simd::store(panel.max + n * lanes, m);
    simd::store(panel.rescale + n * lanes, simd::exp2_nonpositive(old - base[n]));
    sum[n] = V{};
  }
  T* s = panel.scores;
  constexpr Index keys = kUnit<W> * N * lanes / width;  // a turn
  W* weights = panel.template weights<W>();
  CASA_NO_UNROLL
  for (Index j = 0; j < count; j += keys) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const V w = simd::exp2_nonpositive(simd::load(s + n * lanes) - base[n]);
      if constexpr (kUnit<W> == 1) {
        simd::store(weights + n * lanes, w);
        sum[n] += w;
      } else {  // what is summed is what values are multiplied by
        const V next = simd::exp2_nonpositive(simd::load(s + (N + n) * lanes) - base[n]);
        const auto pair = simd::to_pairs<(std::min)(width, static_cast<int>(lanes))>(w, next);
        simd::store(weights + n * lanes, pair);
        sum[n] = simd::fma(pair, simd::broadcast(W{narrow<bfloat16>(1.0f), narrow<bfloat16>(1.0f)}),
                           sum[n]);
      }
    }
    s += kUnit<W> * N * lanes;
    weights += N * lanes;
  }
  CASA_UNROLL
  for (int n = 0; n < N; ++n) {
    const V block = simd::reduce_strided<width>(sum[n], [](V a, V b) { return a + b; });
    T* total = panel.sum + n * lanes;
    simd::store(
        total,
        first ? block : simd::fma(simd::load(total), simd::load(panel.rescale + n * lanes), block));
  }
}

/// Scores of `count` keys, then weights; Q: as what queries and weights are multiplied.
template <class Q, class Rows, class T>
void softmax_block(const Panel<T>& panel, Rows keys, Index count, Index head_dim,
                   const Visible<T>& visible, bool first, Prefetcher& prefetcher) {
  const auto run = [&]<int N, int R>() {
    Row<simd::Vec<T>, N> max;
    score_block<N, R, Q>(panel, keys, count, head_dim, visible, prefetcher, max);
    weigh_block<N, R, Q>(panel, count, first, max);
  };
  constexpr Index lanes = simd::kLanes<T>;
  if (panel.narrow == 1) return run.template operator()<1, 1>();
  if constexpr (lanes >= 4)
    if (panel.narrow == 2) return run.template operator()<1, 2>();
  if constexpr (lanes >= 8 && !kIsStrided<Rows>)
    if (panel.narrow == 4) return run.template operator()<1, 4>();
  if constexpr (lanes >= 16 && !kIsStrided<Rows>)
    if (panel.narrow == 8) return run.template operator()<1, 8>();
  if constexpr (std::is_same_v<Rows, const Q* const*>) {
    if (panel.vectors == 3) return run.template operator()<3, 0>();
    if (panel.vectors == 2) return run.template operator()<2, 0>();
    return run.template operator()<1, 0>();
  }
}

template <class T>
Index score_tile_keys(const Panel<T>& panel) {
  return panel.vectors == 3 ? kTileKeys<3> : panel.vectors == 2 ? kTileKeys<2> : kTileKeys<1>;
}

}  // namespace detail

CASA_NAMESPACE_END
