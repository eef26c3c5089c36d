// The inner loops of the attention kernel, second half: sums of values, weighted by the softmax.
#pragma once

#include <algorithm>
#include <utility>

#include "casa/attention/score_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// acc[m][n] += sum over keys of weights[key * width + m] * values[key][column + n vectors].
template <int M, int N, class T>
CASA_INLINE void weighted_tile(const T* weights, Index width, const T* const* values, Index column,
                               Index count, FetchCursor ahead, Tile<simd::Vec<T>, M, N>& acc) {
  const auto step = [&](Index j, const T* w) __attribute__((always_inline)) {
    const T* v = values[j] + column;
    Row<simd::Vec<T>, N> b;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) b[n] = simd::load(v + n * simd::kLanes<T>);
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      const auto a = simd::broadcast(w[m]);
      CASA_UNROLL
      for (int n = 0; n < N; ++n) simd::accumulate(acc[m][n], a, b[n]);
    }
  };
  CASA_UNROLL
  for (int m = 0; m < M; ++m) {
    CASA_UNROLL
    for (int n = 0; n < N; ++n) simd::keep(acc[m][n]);
  }
  Index j = 0;
  if (count >= 2) {
    const T* odd = weights + width;
    simd::keep_address(odd);
    simd::align_loop(j);
    CASA_NO_UNROLL
    do {
      step(j, weights);
      step(j + 1, odd);
      weights += 2 * width;
      odd += 2 * width;
      fetch_turn<kSumLines<M>>(ahead);
      j += 2;
    } while (j + 2 <= count);
  }
  if (j < count) step(j, weights);
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
  // Meanwhile what the next tile begins with comes, or the result's lines.
  if (rows.result == nullptr) {
    const bool ends = column + N * lanes >= head_dim;
    const T* next = rows.carried + (ends ? M * rows.carried_stride : column + N * lanes);
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n)
        __builtin_prefetch(next + m * rows.carried_stride + n * lanes, 1, 3);
    }
  } else {
    CASA_UNROLL
    for (int m = 0; m < M; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n)
        __builtin_prefetch(rows.result[m] + (std::min)(column + n * lanes, head_dim - 1), 1, 3);
    }
  }
  const FetchCursor ahead = prefetcher.take(count / 2, 2 * M * N, kSumLines<M>, weights);
  weighted_tile<M, N>(weights, width, values, column, count, ahead, acc);
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
