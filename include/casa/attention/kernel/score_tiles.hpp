// The inner loops of the attention kernel, first half: scores of a block, and softmax weights.
//
// Queries are packed into panels, wide ones and narrow ones (dot_tiles.hpp). Scores lie as (key,
// row): a vector holds the rows of one key, or of several. Weights lie likewise, or as (pair of
// keys, row).
#pragma once

#include <algorithm>
#include <limits>

#include "casa/attention/kernel/dot_tiles.hpp"
#include "casa/attention/kernel/fetch.hpp"
#include "casa/attention/kernel/lane_places.hpp"
#include "casa/core/interval.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// For each row of a panel, whether it sees a key: bit l is lane l's (of a narrow panel: row l's).
using LaneBits = std::uint64_t;

/// The keys of a block that some rows of a panel see, counted from the first.
template <class T>
struct PanelKeys {
  Index count = 0;
  Index unmasked_begin = 0;  ///< seen by every row: [unmasked_begin, unmasked_end)
  Index unmasked_end = 0;
  const LaneBits* bits = nullptr;   ///< of all keys that are not unmasked, and of 16 after the last
  const Index* kept = nullptr;      ///< which keys of the block these are; null: all from its first
  const Lane<T>* places = nullptr;  ///< their places among all keys, if score functions need them
  bool first = false;               ///< no block before this one had keys that the panel sees
  bool last = false;                ///< and no block after this one
};

/// The most vectors of a panel.
inline constexpr int kMaxVectors = 3;

/// A panel of queries and the softmax state of its rows: arrays of N vectors, except where stated.
template <class T>
struct QueryPanel {
  int vectors = 1;  ///< N
  int narrow = 0;   ///< rows of a narrow panel, a power of two; 0: a wide one
  Index first = 0;  ///< its first row among the job's rows
  Index rows = 0;   ///< rows that exist; further lanes repeat the last one
  Index sums = 0;   ///< where the sums of its first row are carried (PanelSums)
  Interval seen;    ///< the hull of the keys that its rows see
  Index head_dim = 0;
  /// values or pairs of them: (units, vectors * lanes), or (units / lanes, narrow, lanes)
  void* q = nullptr;
  T* max = nullptr;
  T* sum = nullptr;
  T* rescale = nullptr;  ///< per row, 2^(old maximum - new maximum): the factor of earlier sums
  T* scores = nullptr;   ///< (keys, width), then weights: see weights()
  const Lane<T>* lane_rows = nullptr;   ///< of each lane the row of q and the head, if score
  const Lane<T>* lane_heads = nullptr;  ///< functions need them

  Index width() const { return narrow > 0 ? narrow : vectors * simd::kLanes<T>; }
  /// (keys, width), or (pairs of keys, width)
  template <class W>
  W* weights() const {
    return static_cast<W*>(static_cast<void*>(scores));
  }
};

/// What the tiles of one panel's scores of a block share. N vectors; R > 0: a narrow panel of R
/// rows, R = 0: a wide one. Q: the type as which queries are multiplied.
template <int N, int R, class Q, class Rows, class T, class Score>
struct ScoreBlock {
  static constexpr Index lanes = simd::kLanes<T>;
  static constexpr int width = R > 0 ? R : N* static_cast<int>(lanes);
  static constexpr bool kScored = !std::is_same_v<Score, PlainScore>;
  using V = simd::Vec<T>;
  using Places = LanePlaces<T, R>;
  using OfRows = decltype(score_rows(std::declval<const Score&>(), std::declval<const Places&>()));

  const QueryPanel<T>& panel;
  Rows keys;
  const PanelKeys<T>& seen;
  const Score& score;
  Prefetcher& prefetcher;
  Index units;             ///< of a query
  Index near = 0;          ///< tiles prefetch keys so many bytes ahead; 0: they follow the schedule
  Index near_per_key = 0;  ///< and so many more with each key of a tile

  CASA_INLINE Places places(Index key, int n) const {
    return {panel.lane_rows + n * lanes, panel.lane_heads + n * lanes, seen.places + key};
  }
};

/// The score function of score_tile, applied to a tile, and the change to base 2.
template <int M, int N, class Block, class V>
CASA_INLINE void score_lanes(const Block& block, Index key,
                             const Row<typename Block::OfRows, N>& rows, Tile<V, M, N>& row) {
  using T = simd::Element<V>;
  // (Rounding this factor moves scores by 0.11 units in the last place, float, so that it needs no
  // correction as that of Scaling does.)
  constexpr T log2e = static_cast<T>(1.4426950408889634073599L);
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const V s = apply_score(block.score, row[m][n], block.places(key + m, n), rows[n]);
      row[m][n] = s * log2e;
    }
  }
}

/// One tile of scores, of M keys from `key` on: masked with -inf where a row does not see a key,
/// stored, and folded into the running maximum. The M keys of a narrow panel fill one vector.
template <int M, int N, int R, class Q, class Rows, class T, class Score>
CASA_INLINE void score_tile(
    const ScoreBlock<N, R, Q, Rows, T, Score>& block, Index key,
    const Row<typename ScoreBlock<N, R, Q, Rows, T, Score>::OfRows, N>& of_rows,
    Row<simd::Vec<T>, N>& max) {
  using V = simd::Vec<T>;
  constexpr int groups = R > 0 ? 1 : M;
  constexpr Index lanes = simd::kLanes<T>;
  const PanelKeys<T>& seen = block.seen;
  const Q* q = static_cast<const Q*>(block.panel.q);
  const Index units = block.units, near = block.near;
  Tile<V, groups, N> row;
  if constexpr (R > 0) {
    const NarrowQueries<Q> queries{q, units, near, block.near_per_key};
    constexpr int most = R >= 4 ? R * 3 / 4 : R;  // three of four rows, or six of eight
    if (block.panel.rows <= most)
      row[0][0] = narrow_scores<most, R>(block.keys, key, queries);
    else
      row[0][0] = narrow_scores<R, R>(block.keys, key, queries);
  } else {
    FetchCursor ahead =
        score_cursor<M, N, kScoreSteps>(block.prefetcher, block.keys[key], near, q, units);
    if (kSums == 2 && units <= 2 * kChain)
      dot_tile<M, N>(block.keys + key, {0, units}, q, ahead, row);
    else
      dot_parts<M, N>(block.keys + key, q, units, ahead, row);
  }
  if constexpr (ScoreBlock<N, R, Q, Rows, T, Score>::kScored)
    score_lanes<groups, N>(block, key, of_rows, row);
  if (key < seen.unmasked_begin || key + M > seen.unmasked_end) {
    const V none = simd::broadcast(-std::numeric_limits<T>::infinity());
    CASA_UNROLL
    for (int g = 0; g < groups; ++g) {
      LaneBits bits = seen.bits[key + g];
      if constexpr (R > 0) {
        CASA_UNROLL
        for (int k = 1; k < M; ++k) bits |= seen.bits[key + k] << (k * R);
      }
      CASA_UNROLL
      for (int n = 0; n < N; ++n)
        row[g][n] = simd::select_bits(bits >> (n * static_cast<int>(lanes)), row[g][n], none);
    }
  }
  T* scores = block.panel.scores + key * block.width;
  CASA_UNROLL
  for (int g = 0; g < groups; ++g) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      max[n] = (simd::max)(row[g][n], max[n]);
      simd::store(scores + (g * N + n) * lanes, row[g][n]);
    }
  }
}

/// Scores of a block's keys, in base 2, and the largest of each lane. keys[count], ... repeat the
/// last key up to a whole tile.
template <int N, int R, class Q, class Rows, class T, class Score>
CASA_INLINE void score_block(ScoreBlock<N, R, Q, Rows, T, Score>& block,
                             Row<simd::Vec<T>, N>& max) {
  using Block = ScoreBlock<N, R, Q, Rows, T, Score>;
  constexpr Index lanes = simd::kLanes<T>;
  constexpr int M = R > 0 ? static_cast<int>(lanes) / (std::max)(R, 1) : kTileKeys<N>;
  const Index count = block.seen.count;
  Row<typename Block::OfRows, N> of_rows;
  CASA_UNROLL
  for (int n = 0; n < N; ++n) {
    max[n] = simd::broadcast(-std::numeric_limits<T>::infinity());
    if constexpr (Block::kScored) of_rows[n] = score_rows(block.score, block.places(0, n));
  }
  block.near = keys_ahead(block.prefetcher, block.keys, count, block.units, R > 0);
  Index j = 0;
  for (; j < count; j += M) {
    if constexpr (M > 4 && R == 0) {
      if (count - j <= M / 2) {
        score_tile<M / 2>(block, j, of_rows, max);
        continue;
      }
    }
    score_tile<M>(block, j, of_rows, max);
  }
  if constexpr (kUnit<Q> == 2) {  // the last pair's second key may not exist: its weight must be 0
    CASA_UNROLL
    for (int n = 0; n < N; ++n)
      simd::store(block.panel.scores + (R > 0 ? j : count) * block.width + n * lanes,
                  simd::broadcast(-std::numeric_limits<T>::infinity()));
  }
}

/// Replaces a block's scores by weights 2^(score - max), in place, and updates the panel's max, sum
/// and rescale (the online softmax). Masked keys get weight 0. W = pairs: the weights of two keys
/// are rounded to bfloat16 and stored as a pair.
template <int N, int R, class W, class T>
CASA_INLINE void weigh_block(const QueryPanel<T>& panel, Index count, bool first,
                             const Row<simd::Vec<T>, N>& max) {
  using V = simd::Vec<T>;
  constexpr Index lanes = simd::kLanes<T>;
  constexpr int width = R > 0 ? R : N * static_cast<int>(lanes);
  const V none = simd::broadcast(-std::numeric_limits<T>::infinity());
  Row<V, N> base, sum;
  CASA_UNROLL
  for (int n = 0; n < N; ++n) {
    V m = simd::reduce_strided<width>(max[n], [](V a, V b) { return (simd::max)(a, b); });
    const V old = first ? none : simd::load(panel.max + n * lanes);
    m = (simd::max)(old, m);
    base[n] = simd::select(m == none, V{},
                           m);  // of a row that has seen nothing, subtract 0: -inf - (-inf) is NaN
    simd::store(panel.max + n * lanes, m);
    simd::store(panel.rescale + n * lanes, simd::exp2_nonpositive(old - base[n]));
    sum[n] = V{};
  }
  T* s = panel.scores;
  constexpr Index keys = kUnit<W> * N * lanes / width;  // in a turn of the loop
  W* weights = panel.template weights<W>();
  CASA_NO_UNROLL
  for (Index j = 0; j < count; j += keys) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const V w = simd::exp2_nonpositive(simd::load(s + n * lanes) - base[n]);
      if constexpr (kUnit<W> == 1) {
        simd::store(weights + n * lanes, w);
        sum[n] += w;
      } else {  // the sum is of the rounded weights, by which values are multiplied
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

/// Calls run<R>() for a narrow panel of R rows, of as many as tiles of keys read as Rows have;
/// false for a wide panel.
template <class T, class Rows, class F>
bool run_narrow(int rows, F run) {
  constexpr Index lanes = simd::kLanes<T>;
  if (rows == 1) return run.template operator()<1>(), true;
  if constexpr (lanes >= 4)
    if (rows == 2) return run.template operator()<2>(), true;
  if constexpr (lanes >= 8 && !kIsStrided<Rows>)
    if (rows == 4) return run.template operator()<4>(), true;
  if constexpr (lanes >= 16 && !kIsStrided<Rows>)
    if (rows == 8) return run.template operator()<8>(), true;
  return false;
}

/// The scores of the keys that a panel sees, then their weights. Q: the type as which queries and
/// weights are multiplied.
template <class Q, class Rows, class T, class Score>
void softmax_block(const QueryPanel<T>& panel, Rows keys, const PanelKeys<T>& seen,
                   const Score& score, Prefetcher& prefetcher) {
  const auto run = [&]<int N, int R>() {
    Row<simd::Vec<T>, N> max;
    ScoreBlock<N, R, Q, Rows, T, Score> block{panel, keys,       seen,
                                              score, prefetcher, panel.head_dim / kUnit<Q>};
    score_block(block, max);
    weigh_block<N, R, Q>(panel, seen.count, seen.first, max);
  };
  if (run_narrow<T, Rows>(panel.narrow, [&]<int R>() { run.template operator()<1, R>(); })) return;
  if constexpr (std::is_same_v<Rows, const Q* const*>) {
    if (panel.vectors == 3) return run.template operator()<3, 0>();
    if (panel.vectors == 2) return run.template operator()<2, 0>();
    return run.template operator()<1, 0>();
  }
}

template <class T>
Index score_tile_keys(const QueryPanel<T>& panel) {
  return panel.vectors == 3 ? kTileKeys<3> : panel.vectors == 2 ? kTileKeys<2> : kTileKeys<1>;
}

}  // namespace detail

CASA_NAMESPACE_END
