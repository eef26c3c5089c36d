// The inner loops of the attention kernel, first half: scores of a block, and softmax weights.
//
// Queries are packed into panels, wide ones and narrow ones (dot_tiles.hpp). Scores lie as (key,
// row): a vector holds the rows of one key, or of several. Weights lie likewise, or as (pair of
// keys, row).
#pragma once

#include <algorithm>
#include <limits>

#include "casa/attention/kernel/dot_tiles.hpp"
#include "casa/core/interval.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

template <class T>
using Lane =
    simd::detail::IntOf<T>;  // the integer as wide as T, in which keys are counted for masks

/// The keys that the rows of a panel see, counted from the first key of a block that one of them
/// sees.
template <class T>
struct Visible {
  Index unmasked_begin = 0;  ///< seen by every row: [unmasked_begin, unmasked_end)
  Index unmasked_end = 0;
  const Lane<T>* begin =
      nullptr;  ///< per lane; in a narrow panel, lanes of the vector's key i have i subtracted
  const Lane<T>* end = nullptr;
};

/// One tile of scores, of M keys from `key` on: masked with -inf where a row does not see a key,
/// stored, and folded into the running maximum. R > 0: a narrow panel of R rows, whose M keys fill
/// one vector; R = 0: a wide panel.
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
    FetchCursor ahead =
        near != 0 ? segment_cursor<M * kScoreSteps>(keys[key], near)
                  : prefetcher.take(units / kScoreSteps, kScoreSteps * M * N, kScoreLines, q);
    if (kSums == 2 && units <= 2 * kChain)
      dot_tile<M, N>(keys + key, 0, q, units, ahead, row);
    else
      dot_parts<M, N>(keys + key, q, units, ahead, row);
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
      max[n] = (simd::max)(row[g][n], max[n]);
      simd::store(scores + (g * N + n) * simd::kLanes<T>, row[g][n]);
    }
  }
}

/// The most vectors of a panel.
inline constexpr int kMaxVectors = 3;

/// A panel of queries and the softmax state of its rows: arrays of N vectors, except where stated.
template <class T>
struct QueryPanel {
  int vectors = 1;  ///< N
  int narrow = 0;   ///< rows of a narrow panel, a power of two; 0: a wide one
  Index first = 0;  ///< its first row among the job's rows
  Index rows = 0;   ///< rows that exist; further lanes repeat the last one
  Interval seen;    ///< the hull of the keys that its rows see
  /// values or pairs of them: (units, vectors * lanes), or (units / lanes, narrow, lanes)
  void* q = nullptr;
  T* max = nullptr;
  T* sum = nullptr;
  T* rescale = nullptr;  ///< per row, 2^(old maximum - new maximum): the factor of earlier sums
  T* scores = nullptr;   ///< (keys, width), then weights: see weights()

  Index width() const { return narrow > 0 ? narrow : vectors * simd::kLanes<T>; }
  /// (keys, width), or (pairs of keys, width)
  template <class W>
  W* weights() const {
    return static_cast<W*>(static_cast<void*>(scores));
  }
};

/// Scores of `count` keys, in base 2, and the largest of each lane. keys[count], ... repeat the
/// last key up to a whole tile.
template <int N, int R, class Q, class Rows, class T>
CASA_INLINE void score_block(const QueryPanel<T>& panel, Rows keys, Index count, Index head_dim,
                             const Visible<T>& visible, Prefetcher& prefetcher,
                             Row<simd::Vec<T>, N>& max) {
  constexpr Index lanes = simd::kLanes<T>;
  constexpr int M = R > 0 ? static_cast<int>(lanes) / R : kTileKeys<N>;
  constexpr int width = R > 0 ? R : N * static_cast<int>(lanes);
  CASA_UNROLL
  for (int n = 0; n < N; ++n) max[n] = simd::broadcast(-std::numeric_limits<T>::infinity());
  const Q* q = static_cast<const Q*>(panel.q);
  const Index units = head_dim / kUnit<Q>;
  // Tiles prefetch keys here only if BlockFetches scheduled nothing (with a schedule the keys are
  // in cache already), and tiles of wide panels only if keys are contiguous: else what follows a
  // key are other heads.
  const bool contiguous = prefetcher.idle() && (R > 0 || side_by_side(keys, count, units));
  const Index near = contiguous ? segment_distance(keys, count, units) : 0;
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
  if constexpr (kUnit<Q> == 2) {  // the last pair's second key may not exist: its weight must be 0
    CASA_UNROLL
    for (int n = 0; n < N; ++n)
      simd::store(panel.scores + (R > 0 ? j : count) * width + n * lanes,
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

/// The scores of `count` keys, then their weights. Q: the type as which queries and weights are
/// multiplied.
template <class Q, class Rows, class T>
void softmax_block(const QueryPanel<T>& panel, Rows keys, Index count, Index head_dim,
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
Index score_tile_keys(const QueryPanel<T>& panel) {
  return panel.vectors == 3 ? kTileKeys<3> : panel.vectors == 2 ? kTileKeys<2> : kTileKeys<1>;
}

}  // namespace detail

CASA_NAMESPACE_END
