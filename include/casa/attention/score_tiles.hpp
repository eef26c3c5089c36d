// The inner loops of the attention kernel, first half: scores of a block and softmax weights.
//
// Queries are packed into panels. A wide panel is N vectors wide: its rows are lanes, and one value
// of a key is broadcast to all of them. A folded panel (N = 1, Fold > 1) has lanes / Fold rows: its
// lanes are Fold neighbouring dimensions of each row, a key is broadcast Fold values at a time, and
// the partial dot products of neighbouring lanes are added at the end. So few rows (decode,
// remainders) also fill vectors. Scores lie as (key, row): a vector holds the rows of one key, or
// the rows of Fold keys.
#pragma once

#include <algorithm>
#include <limits>

#include "casa/attention/prefetcher.hpp"
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
inline constexpr int kMaxTileKeys = 8;
/// Steps in a turn of a tile's loop.
inline constexpr int kScoreSteps = 4;

/// Keys of type E are widened from where they lie, in steps that come in pairs.
template <class E, class T>
inline constexpr bool kInPairs = !std::is_same_v<E, T>;
/// The most that a panel is folded: a vector holds a step, or two.
template <class E, class T>
inline constexpr int kMaxFold =
    static_cast<int>((std::min<Index>)(8, simd::kLanes<T> / (kInPairs<E, T> ? 2 : 1)));

/// acc[m][n] = sum over `steps` of key m's values times the panel's vector n.
template <int M, int N, int Fold, class E, class T>
CASA_INLINE void dot_tile(const E* const* keys, Index begin, const T* q, Index steps,
                          FetchCursor& ahead, Tile<simd::Vec<T>, M, N>& acc) {
  constexpr Index lanes = simd::kLanes<T>;
  Row<const E*, M> k;
  constexpr int sums = kSums;
  Row<Tile<simd::Vec<T>, M, N>, sums> sum;
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    k[m] = keys[m] + begin;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      CASA_UNROLL
      for (int s = 0; s < sums; ++s) {
        sum[s][m][n] = simd::Vec<T>{};
        simd::keep(sum[s][m][n]);
      }
    }
  }
  const auto step = [&]<int Parity>(Index i) __attribute__((always_inline)) {
    Row<simd::Vec<T>, N> b;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) b[n] = simd::load(q + n * lanes);
    q += N * lanes;
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      const auto a = simd::broadcast_step<Fold, Parity>(k[m], i);
      CASA_UNROLL
      for (int n = 0; n < N; ++n) simd::accumulate(sum[Parity % sums][m][n], a, b[n]);
    }
  };
  Index i = 0;
  if (steps >= kScoreSteps) {
    simd::align_loop(i);
    CASA_NO_UNROLL
    do {
      CASA_UNROLL
      for (int u = 0; u < kScoreSteps; u += 2) {
        step.template operator()<0>(i + u);
        step.template operator()<1>(i + u + 1);
      }
      fetch_turn<kScoreLines<Fold>>(ahead);
      i += kScoreSteps;
    } while (i + kScoreSteps <= steps);
  }
  if constexpr (kInPairs<E, T>) {
    CASA_NO_UNROLL
    for (; i < steps; i += 2) {
      step.template operator()<0>(i);
      step.template operator()<1>(i + 1);
    }
  } else {
    CASA_NO_UNROLL
    for (; i < steps; ++i) step.template operator()<0>(i);
  }
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
template <int M, int N, int Fold, class E, class T>
CASA_INLINE void dot_halves(const E* const* keys, const T* q, Index steps, FetchCursor& ahead,
                            Tile<simd::Vec<T>, M, N>& acc) {
  const Index half = steps / 4 * 2;
  dot_tile<M, N, Fold>(keys, 0, q, half, ahead, acc);
  Tile<simd::Vec<T>, M, N> parked;
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) parked[m][n] = acc[m][n];
  }
  dot_tile<M, N, Fold>(keys, half * Fold, q + half * N * simd::kLanes<T>, steps - half, ahead, acc);
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) acc[m][n] += parked[m][n];
  }
}

/// Whether a panel is folded so much that few rows are left.
template <class T>
constexpr bool folded_near(int fold) {
  return fold > 1 && simd::kLanes<T> / fold <= kNearRows;
}

/// The same for a panel of few rows, which waits for memory more than it computes: key after key,
/// as they lie, so that the hardware's prefetchers see one stream.
template <int M, int Fold, class E, class T>
CASA_INLINE void dot_keys(const E* const* keys, const T* q, Index steps,
                          Tile<simd::Vec<T>, M, 1>& acc) {
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    const E* key = keys[m];
    simd::Vec<T> sum[2] = {};
    const auto step = [&]<int Parity>(Index i) __attribute__((always_inline)) {
      simd::accumulate(sum[Parity], simd::broadcast_step<Fold, Parity>(key, i),
                       simd::load(q + i * simd::kLanes<T>));
    };
    Index i = 0;
    CASA_NO_UNROLL
    for (; i + kScoreSteps <= steps; i += kScoreSteps) {
      fetch_near<kScoreSteps * Fold>(key + i * Fold);
      CASA_UNROLL
      for (int u = 0; u < kScoreSteps; u += 2) {
        step.template operator()<0>(i + u);
        step.template operator()<1>(i + u + 1);
      }
    }
    for (; i + 2 <= steps; i += 2) {
      step.template operator()<0>(i);
      step.template operator()<1>(i + 1);
    }
    if (i < steps) step.template operator()<0>(i);
    acc[m][0] = sum[0] + sum[1];
  }
}

/// The keys that the rows of a panel see, relative to the first key of the panel's part of a block.
template <class T>
struct Visible {
  Index unmasked_begin = 0;  ///< seen by every row: [unmasked_begin, unmasked_end)
  Index unmasked_end = 0;
  const Lane<T>* begin = nullptr;  ///< per lane (a folded panel's later keys already subtracted)
  const Lane<T>* end = nullptr;
};

/// One tile of scores: stored, masked where a row must not see, folded into the running maximum.
template <int M, int N, int Fold, class E, class T>
CASA_INLINE void score_tile(const E* const* keys, const T* q, Index steps, Index key, T* scores,
                            const Visible<T>& visible, Prefetcher& prefetcher,
                            Row<simd::Vec<T>, N>& max) {
  using V = simd::Vec<T>;
  Tile<V, M, N> acc;
  if constexpr (folded_near<T>(Fold)) {
    dot_keys<M, Fold>(keys, q, steps, acc);
  } else {
    FetchCursor ahead =
        prefetcher.take(steps / kScoreSteps, kScoreSteps * M * N, kScoreLines<Fold>, q);
    if constexpr (kSums == 2)
      dot_tile<M, N, Fold>(keys, 0, q, steps, ahead, acc);
    else
      dot_halves<M, N, Fold>(keys, q, steps, ahead, acc);
  }

  constexpr int groups = M / Fold;
  Tile<V, groups, N> row;
  CASA_UNROLL
  for (int g = 0; g < groups; ++g) {
    if constexpr (Fold == 1) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n) row[g][n] = acc[g][n];
    } else {
      Row<V, Fold> part;
      CASA_UNROLL
      for (int f = 0; f < Fold; ++f) part[f] = acc[g * Fold + f][0];
      row[g][0] = simd::add_groups(part);
    }
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
        const auto at = simd::broadcast(static_cast<Lane<T>>(key + g * Fold));
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
  int fold = 1;     ///< Fold
  Index first = 0;  ///< its first row among the job's rows
  Index rows = 0;   ///< rows that exist (the others repeat the last one)
  Interval seen;    ///< the keys that one of them sees
  T* q = nullptr;   ///< (head_dim / fold, vectors * lanes)
  T* max = nullptr;
  T* sum = nullptr;
  T* rescale = nullptr;      ///< factor of this block for what was summed before
  T* scores = nullptr;       ///< (keys, width), then weights
  Lane<T>* begin = nullptr;  ///< Visible::begin, end
  Lane<T>* end = nullptr;

  Index width() const { return vectors * simd::kLanes<T> / fold; }
};

/// Scores of `count` keys in base 2, then weights 2^(score - max) in their place; updates max, sum
/// and rescale. keys[count ..] repeats the last key up to a whole tile. Weights of masked keys are
/// 0.
template <int N, int Fold, class E, class T>
void softmax_block(const Panel<T>& panel, const E* const* keys, Index count, Index head_dim,
                   const Visible<T>& visible, bool first, Prefetcher& prefetcher) {
  using V = simd::Vec<T>;
  constexpr int M = kTileKeys<N>;
  constexpr Index lanes = simd::kLanes<T>;
  const V none = simd::broadcast(-std::numeric_limits<T>::infinity());
  const Index width = N * lanes / Fold, steps = head_dim / Fold;
  Row<V, N> max;
  CASA_UNROLL
  for (int n = 0; n < N; ++n) max[n] = none;
  for (Index j = 0; j < count; j += M) {
    if constexpr (M > 4 && M / 2 % Fold == 0) {
      if (count - j <= M / 2) {
        score_tile<M / 2, N, Fold>(keys + j, panel.q, steps, j, panel.scores + j * width, visible,
                                   prefetcher, max);
        continue;
      }
    }
    score_tile<M, N, Fold>(keys + j, panel.q, steps, j, panel.scores + j * width, visible,
                           prefetcher, max);
  }

  Row<V, N> base, sum;
  CASA_UNROLL
  for (int n = 0; n < N; ++n) {
    V m = simd::reduce_strided<static_cast<int>(lanes) / Fold>(
        max[n], [](V a, V b) { return simd::max(a, b); });
    const V old = first ? none : simd::load(panel.max + n * lanes);
    m = simd::max(old, m);
    base[n] =
        simd::select(m == none, V{}, m);  // a row that has seen nothing: -inf - 0, not -inf + inf
    simd::store(panel.max + n * lanes, m);
    simd::store(panel.rescale + n * lanes, simd::exp2_nonpositive(old - base[n]));
    sum[n] = V{};
  }
  T* s = panel.scores;
  CASA_NO_UNROLL
  for (Index j = 0; j < count; j += Fold) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const V w = simd::exp2_nonpositive(simd::load(s + n * lanes) - base[n]);
      simd::store(s + n * lanes, w);
      sum[n] += w;
    }
    s += N * lanes;
  }
  CASA_UNROLL
  for (int n = 0; n < N; ++n) {
    const V block = simd::reduce_strided<static_cast<int>(lanes) / Fold>(
        sum[n], [](V a, V b) { return a + b; });
    T* total = panel.sum + n * lanes;
    simd::store(
        total,
        first ? block : simd::fma(simd::load(total), simd::load(panel.rescale + n * lanes), block));
  }
}

template <class E, class T>
void softmax_block(const Panel<T>& panel, const E* const* keys, Index count, Index head_dim,
                   const Visible<T>& visible, bool first, Prefetcher& prefetcher) {
  const auto run = [&]<int N, int Fold>() {
    softmax_block<N, Fold>(panel, keys, count, head_dim, visible, first, prefetcher);
  };
  switch (panel.fold) {
    case 2:
      if constexpr (kMaxFold<E, T> >= 2) return run.template operator()<1, 2>();
      break;
    case 4:
      if constexpr (kMaxFold<E, T> >= 4) return run.template operator()<1, 4>();
      break;
    case 8:
      if constexpr (kMaxFold<E, T> >= 8) return run.template operator()<1, 8>();
      break;
    default:
      if (panel.vectors == 3) return run.template operator()<3, 1>();
      if (panel.vectors == 2) return run.template operator()<2, 1>();
      return run.template operator()<1, 1>();
  }
}

template <class T>
Index score_tile_keys(const Panel<T>& panel) {
  return panel.vectors == 3 ? kTileKeys<3> : panel.vectors == 2 ? kTileKeys<2> : kTileKeys<1>;
}

}  // namespace detail

CASA_NAMESPACE_END
