// The inner loops of the attention kernel, second half: sums of values, weighted by the softmax.
#pragma once

#include <algorithm>
#include <span>
#include <utility>

#include "casa/attention/kernel/fetch.hpp"
#include "casa/attention/kernel/score_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The Unit with which merge_pair() puts two neighbouring vectors of a tile's sums into order,
/// because values were loaded permuted (simd/lane_order.hpp); 0: they are in order. (The last of an
/// odd number is in order.)
template <int N, class W, class E>
inline constexpr int kMergeUnit = N == 1                 ? 0
                                  : kUnit<W> == 2        ? 4
                                  : simd::kLoadsPairs<E> ? 1
                                                         : 0;

/// Forces the sums into registers before a loop.
template <int M, int N, class V>
CASA_INLINE void keep_sums(Tile<V, M, N>& acc) {
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) simd::keep(acc[m][n]);
  }
}

/// acc[m][n] += weights[m] times vector n of `values`. With pairs, weights[m] are those of two keys
/// and the second key's values are at `next`.
template <int M, int N, class W, class E, class V>
CASA_INLINE void add_weighted(const W* weights, const E* values, [[maybe_unused]] const E* next,
                              Tile<V, M, N>& acc) {
  constexpr Index lanes = simd::kLanes<W>;
  Row<simd::Loaded<W>, N> b;
  if constexpr (kUnit<W> == 2 && N == 1) {
    b[0] = simd::load_rows(values, next);
  } else if constexpr (kUnit<W> == 2) {
    CASA_UNROLL
    for (int n = 0; n < N; n += 2)
      simd::load_rows(values + n * lanes, next + n * lanes, b[n], b[n + 1]);
  } else {
    CASA_UNROLL
    for (int n = 0; n + 1 < N; n += 2) simd::load_two(values + n * lanes, b[n], b[n + 1]);
    if constexpr (N % 2 == 1) b[N - 1] = simd::load(values + (N - 1) * lanes);
  }
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    const auto a = simd::broadcast(weights[m]);
    CASA_UNROLL
    for (int n = 0; n < N; ++n) simd::accumulate(acc[m][n], a, b[n]);
  }
}

/// The rows of a panel whose sums one tile holds, where the sums come from and where they go: rows
/// of a scratch matrix or of the result. (Members have no initialisers, since an array of these is
/// filled for every panel and block.)
template <class T, class W, class Values>
struct SumRows {
  static constexpr Index kLanes = simd::kLanes<T>;
  Index rows;
  const W* weights;  ///< (keys or pairs of keys, panel's width), from the first key that a row sees
  Values values;     ///< per key, widened in registers: a list of pointers or StridedRows
  Index count;       ///< keys; of pairs an even number
  T* carried;        ///< (rows, padded_dim): sums so far
  const T* rescale;  ///< per row, applied to what is carried; null: begin from zero
  T* const* result;  ///< per row, value_dim values; null: more keys follow, store to `carried`
  const T* factor;   ///< per row, applied to the result
};

/// Sizes that all tiles of a panel share.
struct SumShape {
  Index width = 0;  ///< of the panel
  Index value_dim = 0;
  Index padded_dim = 0;    ///< value_dim, rounded up to whole vectors
  Index near = 0;          ///< tiles prefetch so many bytes ahead; 0: they follow the schedule
  Index near_per_key = 0;  ///< and so many more with each key
  bool streams = false;    ///< results are streamed past the caches; they are whole vectors
};

/// acc[m][n] += sum over keys of weights[key * width + m] * values[key][column + n vectors].
template <int M, int N, class T, class W, class E, class V>
CASA_INLINE void weighted_tile(const SumRows<T, W, const E* const*>& rows, Index width,
                               Index column, FetchCursor ahead, Tile<V, M, N>& acc) {
  constexpr Index unit = kUnit<W>;
  const E* const* const values = rows.values;
  const W* weights = rows.weights;
  const Index count = rows.count;
  const auto step = [&](Index j, const W* w) __attribute__((always_inline)) {
    add_weighted<M, N>(w, values[j] + column, values[j + unit - 1] + column, acc);
  };
  keep_sums<M, N, V>(acc);
  Index j = 0;
  if (count >= 2 * unit) {
    const W* odd = weights + width;
    simd::keep_address(odd);
    simd::align_loop(j);
    CASA_NO_UNROLL
    do {
      step(j, weights);
      step(j + unit, odd);
      weights += 2 * width;
      odd += 2 * width;
      CASA_UNROLL
      for (int u = 0; u < unit; ++u) fetch_turn<kSumLines<M>>(ahead);  // each of two keys
      j += 2 * unit;
    } while (j + 2 * unit <= count);
  }
  if (j < count) step(j, weights);
}

/// The same with values in one segment, a key a turn, so that each address is the last one plus a
/// stride. Memory is prefetched shape.near bytes ahead.
template <int M, int N, class T, class E, class V>
CASA_INLINE void near_tile(const SumRows<T, T, StridedRows<E>>& rows, const SumShape& shape,
                           Index column, Tile<V, M, N>& acc) {
  const T* weights = rows.weights;
  const Index count = rows.count;
  Index near = shape.near;
  const E* v = rows.values.first + column;
  keep_sums<M, N, V>(acc);
  CASA_NO_UNROLL
  for (Index j = 0; j < count; ++j) {
    fetch_near<N* static_cast<int>(simd::kLanes<T>)>(v, near);
    add_weighted<M, N>(weights, v, v, acc);
    weights += shape.width;
    v += rows.values.stride;
    near += shape.near_per_key;
  }
}

/// Rows of the largest tile of sums: 12 x 2 accumulators of 32 registers, 6 x 2 of 16.
inline constexpr int kSumRows = simd::kRegisters == 32 ? 12 : 6;
/// Vectors of a tile of so many rows: a power of two, so that few functions serve every head_dim.
/// (Values that are read as a segment have a function for each number of vectors.)
constexpr int sum_vectors(Index rows) {
  if (simd::kRegisters == 32) return rows <= 2 ? 8 : rows <= 6 ? 4 : 2;
  return rows == 1 ? 8 : rows == 2 ? 4 : 2;
}
/// The same where one or two rows read values as a segment. They take whole values, although 16
/// vectors of sums are more than AVX2 has registers: what does not fit stays in the first-level
/// cache, and memory is read in order (one float row, AVX2, head_dim 128: 32 to 38 GB/s).
inline constexpr int kSegmentVectors = 16;
template <class Values>
constexpr int sum_vectors_of(Index rows) {
  if (kIsStrided<Values>) return rows <= kFewQueries ? kSegmentVectors : 0;
  return sum_vectors(rows);
}

/// The sums of M rows in N vectors from `column` on. (Not inlined: inside another function g++ 12
/// keeps sums of pairs in memory.)
template <int M, int N, class T, class W, class Values>
[[gnu::noinline]] void sum_tile(const SumRows<T, W, Values>& rows, const SumShape& shape,
                                Index column, Prefetcher& prefetcher) {
  using V = simd::Vec<T>;
  using E = Value<Values>;
  constexpr Index lanes = simd::kLanes<T>;
  Tile<V, M, N> acc;
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n)
      acc[m][n] = rows.rescale
                      ? simd::load(rows.carried + m * shape.padded_dim + column + n * lanes) *
                            simd::broadcast(rows.rescale[m])
                      : V{};
  }
  if constexpr (kIsStrided<Values>) {
    near_tile<M, N>(rows, shape, column, acc);
  } else {
    const FetchCursor ahead = sum_cursor<M, N * lanes>(prefetcher, rows, shape, column);
    weighted_tile<M, N>(rows, shape.width, column, ahead, acc);
  }
  if constexpr (constexpr int unit = kMergeUnit<N, W, E>; unit > 0) {
    if (rows.result) {
      CASA_UNROLL
      for (int m = 0; m < M; ++m) {
        CASA_UNROLL
        for (int n = 0; n + 1 < N; n += 2) simd::merge_pair<unit>(acc[m][n], acc[m][n + 1]);
      }
    }
  }
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const Index at = column + n * lanes;
      if (rows.result == nullptr) {
        simd::store(rows.carried + m * shape.padded_dim + at, acc[m][n]);
      } else {
        const V x = acc[m][n] * simd::broadcast(rows.factor[m]);
        if (shape.streams)
          simd::stream(rows.result[m] + at, x);
        else if (at + lanes <= shape.value_dim)
          simd::store(rows.result[m] + at, x);
        else
          simd::store_partial(rows.result[m] + at, x, shape.value_dim - at);
      }
    }
  }
}

/// Calls sum_tile for the number of rows there are.
template <int N, class T, class W, class Values>
void sum_tile(const SumRows<T, W, Values>& rows, const SumShape& shape, Index column,
              Prefetcher& prefetcher) {
  const auto run_one_of = [&]<int... M>(std::integer_sequence<int, M...>) {
    const auto run = [&]<int Rows>() {
      if constexpr (N <= sum_vectors_of<Values>(Rows))
        sum_tile<Rows, N>(rows, shape, column, prefetcher);
    };
    static_cast<void>(((rows.rows == M + 1 && (run.template operator()<M + 1>(), true)) || ...));
  };
  run_one_of(std::make_integer_sequence<int, kSumRows>{});
}

/// The weighted sums of a panel over a block. All rows of some columns precede the next columns, so
/// that only the first tile reads a column's values from beyond the first-level cache.
template <class T, class W, class Values>
void sum_panel(std::span<const SumRows<T, W, Values>> tiles, const SumShape& shape,
               Prefetcher& prefetcher) {
  Index vectors = shape.padded_dim / simd::kLanes<T>;
  if constexpr (kIsStrided<Values>) {  // one pass over memory: values are one tile of any width
    const auto run_one_of = [&]<int... N>(std::integer_sequence<int, N...>) {
      const auto run = [&]<int Vectors>() {
        for (const auto& tile : tiles) sum_tile<Vectors>(tile, shape, 0, prefetcher);
      };
      static_cast<void>(((vectors == N + 1 && (run.template operator()<N + 1>(), true)) || ...));
    };
    run_one_of(std::make_integer_sequence<int, kSegmentVectors>{});
  } else {
    Index most = 1, column = 0;
    for (const auto& tile : tiles) most = (std::max)(most, tile.rows);
    const auto run = [&]<int N>() {
      for (; vectors >= N && sum_vectors(most) >= N; vectors -= N, column += N * simd::kLanes<T>)
        for (const auto& tile : tiles) sum_tile<N>(tile, shape, column, prefetcher);
    };
    run.template operator()<8>();
    run.template operator()<4>();
    run.template operator()<2>();
    run.template operator()<1>();
  }
}

}  // namespace detail

CASA_NAMESPACE_END
