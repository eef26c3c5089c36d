// The inner loops of the fast attention kernel: scores, softmax weights and weighted sums of a
// block.
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

#include "casa/core/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

template <class V, int N>
using Row = V[static_cast<std::size_t>(N)];
template <class V, int M, int N>
using Tile = Row<V, N>[static_cast<std::size_t>(M)];

template <class T>
using Lane = simd::detail::IntOf<T>;  // what limits of keys are counted in, as wide as T

/// A dot product is summed in kSums parts, which halves its rounding error: with 32 registers side
/// by side, with 16 one after the other.
inline constexpr int kSums = simd::kRegisters == 32 ? 2 : 1;
/// Keys in a tile of scores: keys x N vectors x kSums accumulators fit the registers.
template <int N>
inline constexpr int kTileKeys = N == 3   ? 4
                                 : N == 2 ? 6
                                          : 8;
inline constexpr int kMaxTileKeys = 8;

/// Memory that will be needed soon, fetched in small steps from inside the tiles' loops. Bursts of
/// prefetches before a tile gain nothing: the arithmetic must run beside them.
struct Prefetcher {
  static constexpr int kRegions = 8;
  struct Region {
    const char* begin;
    const char* end;
  };
  Region regions[kRegions];
  int count = 0, current = 0;
  Index step = 0;
  float bytes_per_work = 0;
  // Rows too short for a tile's loop (queries): some lines of them before each tile.
  const char* row = nullptr;
  Index row_bytes = 0, row_stride = 0, rows_left = 0, row_at = 0, lines_per_take = 0;

  void clear() { count = current = 0, step = rows_left = 0; }
  void add(const void* begin, const void* end) {
    if (count < kRegions && begin < end)
      regions[count++] = {static_cast<const char*>(begin), static_cast<const char*>(end)};
  }
  void add_rows(const void* first, Index bytes, Index stride, Index rows) {
    row = static_cast<const char*>(first);
    row_bytes = bytes, row_stride = stride, rows_left = rows, row_at = 0;
  }
  /// Spreads what was added over that many multiply-adds (of vectors), in that many tiles: memory
  /// that is asked for at an even pace comes without stalls.
  void spread(Index work, Index tiles) {
    Index bytes = 0;
    for (int i = 0; i < count; ++i) bytes += regions[i].end - regions[i].begin;
    bytes_per_work = static_cast<float>(bytes) / static_cast<float>((std::max<Index>)(work, 1));
    lines_per_take = rows_left * (row_bytes / 64 + 1) / (std::max<Index>)(tiles, 1) + 1;
  }
  /// Where the next `steps` steps, each of so many multiply-adds and `lines` prefetches, begin;
  /// they go on by `step`.
  const char* take(Index steps, Index work_per_step, int lines, const void* idle) {
    if (rows_left > 0) take_rows();
    while (current < count && regions[current].begin >= regions[current].end) ++current;
    if (current == count) {
      step = 0;
      return static_cast<const char*>(idle);
    }
    step = (std::min<Index>)(64 * lines, static_cast<Index>(bytes_per_work *
                                                            static_cast<float>(work_per_step)) +
                                             1);
    const char* p = regions[current].begin;
    regions[current].begin += steps * step;
    return p;
  }

 private:
  void take_rows() {
    for (Index i = 0; i < lines_per_take && rows_left > 0; ++i) {
      simd::prefetch(row + row_at);
      row_at += 64;
      if (row_at >= row_bytes) {
        row += row_stride;
        row_at = 0;
        --rows_left;
      }
    }
  }
};

/// Cache lines fetched per step of a tile: the fewer rows share a key, the faster memory must come.
template <int Fold>
inline constexpr int kScoreLines = Fold >= 4 ? Fold / 2 : 1;
template <int M>
inline constexpr int kSumLines = M <= 2   ? 8
                                 : M <= 4 ? 4
                                 : M <= 8 ? 2
                                          : 1;

/// One step of a prefetch cursor.
template <int Lines>
CASA_INLINE void fetch_step(const char*& ahead, Index step) {
  if constexpr (Lines == 1) {
    simd::prefetch(ahead);
  } else {
    CASA_UNROLL
    for (int i = 0; i < Lines; ++i) simd::prefetch(ahead + i * 64);
  }
  ahead += step;
}

/// acc[m][n] = sum over `steps` of key m's values times the panel's vector n.
template <int M, int N, int Fold, class T>
CASA_INLINE void dot_tile(const T* const* keys, Index begin, const T* q, Index steps,
                          const char* ahead, Index ahead_step, Tile<simd::Vec<T>, M, N>& acc) {
  constexpr Index lanes = simd::kLanes<T>;
  Row<const T*, M> k;
  Row<Tile<simd::Vec<T>, M, N>, kSums> sum;
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    k[m] = keys[m] + begin;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      CASA_UNROLL
      for (int s = 0; s < kSums; ++s) sum[s][m][n] = simd::Vec<T>{};
    }
  }
  const auto step = [&](int s, Index i) __attribute__((always_inline)) {
    Row<simd::Vec<T>, N> b;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      b[n] = simd::load(q + n * lanes);
      simd::keep(b[n]);
    }
    q += N * lanes;
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      const auto a = simd::broadcast_group<Fold>(k[m] + i * Fold);
      CASA_UNROLL
      for (int n = 0; n < N; ++n) sum[s][m][n] = simd::fma(a, b[n], sum[s][m][n]);
    }
    fetch_step<kScoreLines<Fold>>(ahead, ahead_step);
  };
  Index i = 0;
  CASA_NO_UNROLL
  for (; i + kSums <= steps; i += kSums) {
    CASA_UNROLL
    for (int s = 0; s < kSums; ++s) step(s, i + s);
  }
  if (i < steps) step(0, i);
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      acc[m][n] = sum[0][m][n];
      if constexpr (kSums == 2) acc[m][n] += sum[1][m][n];
    }
  }
}

/// The keys that the rows of a panel see, relative to the first key of the strip's part of a block.
template <class T>
struct Visible {
  Index unmasked_begin = 0;  ///< seen by every row: [unmasked_begin, unmasked_end)
  Index unmasked_end = 0;
  const Lane<T>* begin = nullptr;  ///< per lane (a folded panel's later keys already subtracted)
  const Lane<T>* end = nullptr;
};

/// One tile of scores: stored, masked where a row must not see, folded into the running maximum.
template <int M, int N, int Fold, class T>
CASA_INLINE void score_tile(const T* const* keys, const T* q, Index steps, Index key, T* scores,
                            const Visible<T>& visible, Prefetcher& prefetcher,
                            Row<simd::Vec<T>, N>& max) {
  using V = simd::Vec<T>;
  Tile<V, M, N> acc;
  const char* ahead = prefetcher.take(steps, M * N, kScoreLines<Fold>, q);
  if constexpr (kSums == 2) {
    dot_tile<M, N, Fold>(keys, 0, q, steps, ahead, prefetcher.step, acc);
  } else {  // two halves, the first parked on the stack meanwhile
    const Index half = steps / 2;
    dot_tile<M, N, Fold>(keys, 0, q, half, ahead, prefetcher.step, acc);
    Tile<V, M, N> parked;
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n) parked[m][n] = acc[m][n];
    }
    dot_tile<M, N, Fold>(keys, half * Fold, q + half * N * simd::kLanes<T>, steps - half,
                         ahead + half * prefetcher.step, prefetcher.step, acc);
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n) acc[m][n] += parked[m][n];
    }
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

/// A panel of queries and the softmax state of its rows. Arrays of N vectors where not said
/// otherwise.
template <class T>
struct Panel {
  int vectors = 1;  ///< N
  int fold = 1;     ///< Fold
  Index first = 0;  ///< its first row among the job's rows
  Index rows = 0;   ///< rows that exist (the others repeat the last one)
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
template <int N, int Fold, class T>
void softmax_block(const Panel<T>& panel, const T* const* keys, Index count, Index head_dim,
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

template <class T>
void softmax_block(const Panel<T>& panel, const T* const* keys, Index count, Index head_dim,
                   const Visible<T>& visible, bool first, Prefetcher& prefetcher) {
  const auto run = [&]<int N, int Fold>() {
    softmax_block<N, Fold>(panel, keys, count, head_dim, visible, first, prefetcher);
  };
  constexpr Index lanes = simd::kLanes<T>;
  switch (panel.fold) {
    case 2:
      return run.template operator()<1, 2>();
    case 4:
      if constexpr (lanes >= 4) return run.template operator()<1, 4>();
      break;
    case 8:
      if constexpr (lanes >= 8) return run.template operator()<1, 8>();
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

/// acc[m][n] += sum over keys of weights[key * width + m] * values[key][column + n vectors].
template <int M, int N, class T>
CASA_INLINE void weighted_tile(const T* weights, Index width, const T* const* values, Index column,
                               Index count, const char* ahead, Index ahead_step,
                               Tile<simd::Vec<T>, M, N>& acc) {
  CASA_NO_UNROLL
  for (Index j = 0; j < count; ++j) {
    const T* v = values[j] + column;
    Row<simd::Vec<T>, N> b;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      b[n] = simd::load(v + n * simd::kLanes<T>);
      if constexpr (M > 1) simd::keep(b[n]);
    }
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      const auto a = simd::broadcast(weights[m]);
      CASA_UNROLL
      for (int n = 0; n < N; ++n) acc[m][n] = simd::fma(a, b[n], acc[m][n]);
    }
    weights += width;
    fetch_step<kSumLines<M>>(ahead, ahead_step);
  }
}

/// Vectors of a tile of M rows of output.
template <int M>
inline constexpr int kTileVectors = simd::kRegisters == 32 ? (M >= 12  ? 2
                                                              : M >= 8 ? 3
                                                              : M >= 4 ? 6
                                                                       : 8)
                                                           : (M >= 6   ? 2
                                                              : M >= 4 ? 3
                                                              : M >= 2 ? 4
                                                                       : 8);

/// What a tile of rows does with its sums before and after: rows of a scratch matrix, or of the
/// result.
template <class T>
struct RowSums {
  T* carried = nullptr;  ///< (rows, padded head_dim): sums so far
  Index carried_stride = 0;
  const T* rescale = nullptr;  ///< per row, applied to what is carried; null: begin from zero
  T* const* result = nullptr;  ///< per row, head_dim values; null: carry on
  const T* factor = nullptr;   ///< per row, applied to the result
};

template <int M, int N, class T>
void weighted_columns(const T* weights, Index width, const T* const* values, Index column,
                      Index count, Index head_dim, const RowSums<T>& rows, Prefetcher& prefetcher) {
  using V = simd::Vec<T>;
  constexpr Index lanes = simd::kLanes<T>;
  Tile<V, M, N> acc;
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n)
      acc[m][n] = rows.rescale
                      ? simd::load(rows.carried + m * rows.carried_stride + column + n * lanes) *
                            simd::broadcast(rows.rescale[m])
                      : V{};
  }
  if (rows.result != nullptr) {  // the result's lines come while its sums are made
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n)
        __builtin_prefetch(rows.result[m] + (std::min)(column + n * lanes, head_dim - 1), 1, 3);
    }
  }
  const char* ahead = prefetcher.take(count, M * N, kSumLines<M>, weights);
  weighted_tile<M, N>(weights, width, values, column, count, ahead, prefetcher.step, acc);
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const Index at = column + n * lanes;
      if (rows.result == nullptr) {
        simd::store(rows.carried + m * rows.carried_stride + at, acc[m][n]);
      } else {
        const V x = acc[m][n] * simd::broadcast(rows.factor[m]);
        if (at + lanes <= head_dim)
          simd::store(rows.result[m] + at, x);
        else
          simd::store_partial(rows.result[m] + at, x, head_dim - at);
      }
    }
  }
}

/// The weighted sums of M rows over all columns.
template <int M, class T>
void weighted_rows(const T* weights, Index width, const T* const* values, Index count,
                   Index head_dim, const RowSums<T>& rows, Prefetcher& prefetcher) {
  constexpr Index lanes = simd::kLanes<T>;
  constexpr int N = kTileVectors<M>;
  Index vectors = (head_dim + lanes - 1) / lanes, column = 0;
  for (Index tiles = (vectors + N - 1) / N; tiles > 0; --tiles) {
    const Index n = (vectors + tiles - 1) / tiles;
    const auto run = [&]<int W>() {
      weighted_columns<M, W>(weights, width, values, column, count, head_dim, rows, prefetcher);
    };
    [&]<int... W>(std::integer_sequence<int, W...>) {
      static_cast<void>(((n == W + 1 && (run.template operator()<W + 1>(), true)) || ...));
    }
    (std::make_integer_sequence<int, N>{});
    vectors -= n;
    column += n * lanes;
  }
}

/// Rows of the next tile where `left` rows of a panel are left.
inline Index tile_rows(Index left) {
  if constexpr (simd::kRegisters == 32) {
    if (left >= 12 && left != 16) return 12;
    if (left >= 8) return 8;
  } else {
    if (left >= 6 && left != 8) return 6;
  }
  return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}
template <class T>
void weighted_rows(Index m, const T* weights, Index width, const T* const* values, Index count,
                   Index head_dim, const RowSums<T>& rows, Prefetcher& prefetcher) {
  const auto run = [&]<int M>() {
    weighted_rows<M>(weights, width, values, count, head_dim, rows, prefetcher);
  };
  if constexpr (simd::kRegisters == 32) {
    if (m == 12) return run.template operator()<12>();
    if (m == 8) return run.template operator()<8>();
  } else {
    if (m == 6) return run.template operator()<6>();
  }
  if (m == 4) return run.template operator()<4>();
  if (m == 2) return run.template operator()<2>();
  run.template operator()<1>();
}

}  // namespace detail

CASA_NAMESPACE_END
