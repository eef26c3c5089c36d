// The innermost loops of the backward pass: one product of matrices in registers, and the softmax
// weights and gradients of scores that a tile of products becomes.
//
// All five products of the backward pass have this form. In the forward pass the keys and values of
// a tile are read where the caller has them; here each is read four times as often, and lies in
// scratch, so that one loop serves all five.
#pragma once

#include <algorithm>
#include <limits>

#include "casa/attention/kernel/score_tiles.hpp"
#include "casa/attention/score_slope.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows of a tile of products. With 3 vectors of columns, the accumulators, a row of b and a value
/// of a fit the registers.
inline constexpr int kBackwardRows = simd::kRegisters == 32 ? 8 : 4;

/// The most (row, head) pairs of a panel.
template <class T>
inline constexpr Index kBackwardPairs = kMaxVectors* simd::kLanes<T>;

/// A factor of a product: row r, column c stands at data[r * row + c * column].
template <class T>
struct Factor {
  const T* data;
  Index row;
  Index column;
};

/// sum[m][n] += sum over k < depth of a(m, k) * b[k * b_row + n lanes ...].
template <int N, class T>
CASA_INLINE void multiply_tile(const Factor<T>& a, const T* b, Index b_row, Index depth,
                               Tile<simd::Vec<T>, kBackwardRows, N>& sum) {
  constexpr Index lanes = simd::kLanes<T>;
  Row<const T*, kBackwardRows> row;
  CASA_UNROLL
  for (int m = 0; m < kBackwardRows; ++m) row[m] = a.data + m * a.row;
  Index at = 0;
  CASA_NO_UNROLL
  for (Index k = 0; k < depth; ++k) {
    Row<simd::Vec<T>, N> right;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) right[n] = simd::load(b + n * lanes);
    CASA_UNROLL
    for (int m = 0; m < kBackwardRows; ++m) {
      const simd::Vec<T> left = simd::broadcast(row[m][at]);
      CASA_UNROLL
      for (int n = 0; n < N; ++n) simd::accumulate(sum[m][n], left, right[n]);
    }
    b += b_row;
    at += a.column;
  }
}

/// Some columns of add_product().
template <int N, class T>
void add_columns(const Factor<T>& a, const T* b, T* c, Index width, Index rows, Index depth) {
  constexpr Index lanes = simd::kLanes<T>;
  for (Index r = 0; r < rows; r += kBackwardRows) {
    Tile<simd::Vec<T>, kBackwardRows, N> sum;
    T* to = c + r * width;
    CASA_UNROLL
    for (int m = 0; m < kBackwardRows; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n) sum[m][n] = simd::load(to + m * width + n * lanes);
    }
    multiply_tile<N, T>({a.data + r * a.row, a.row, a.column}, b, width, depth, sum);
    CASA_UNROLL
    for (int m = 0; m < kBackwardRows; ++m) {
      CASA_UNROLL
      for (int n = 0; n < N; ++n) simd::store(to + m * width + n * lanes, sum[m][n]);
    }
  }
}

/// c += a b: c (rows, width), b (depth, width), row-major, `width` whole vectors. Rows are rounded
/// up to whole tiles: a and c have memory for them.
template <class T>
void add_product(const Factor<T>& a, const T* b, T* c, Index width, Index rows, Index depth) {
  constexpr Index lanes = simd::kLanes<T>;
  for (Index column = 0; column < width;) {
    const Index left = (width - column) / lanes;
    const int n = left == 4 ? 2 : static_cast<int>((std::min<Index>)(left, 3));
    if (n == 3)
      add_columns<3>(a, b + column, c + column, width, rows, depth);
    else if (n == 2)
      add_columns<2>(a, b + column, c + column, width, rows, depth);
    else
      add_columns<1>(a, b + column, c + column, width, rows, depth);
    column += n * lanes;
  }
}

/// Rows of one kv head whose scores are computed together, packed: what the tiles of scores read.
/// Its lanes are rows, in N vectors; lanes after the last row have a log-sum-exp of infinity, so
/// that their weights are 0.
template <class T>
struct BackwardLanes {
  Index width = 0;        ///< N * lanes
  Index rows = 0;         ///< lanes that have a row
  T* q = nullptr;         ///< (head_dim, width), scaled as Scaling says
  T* d_out = nullptr;     ///< (value_dim, width)
  T* lse = nullptr;       ///< (width), log-sum-exp in base 2
  T* mean = nullptr;      ///< (width), d_out . out: the mean of the gradients of the weights
  T* weights = nullptr;   ///< (keys of a block, width): p
  T* d_scores = nullptr;  ///< (keys of a block, width): d loss / d s
  T* slopes = nullptr;    ///< (keys of a block, width): d s' / d s, with a score function
  T* raw = nullptr;  ///< (keys of a block, width): s, and d loss / d s', where the gradients of a
  T* d_changed = nullptr;               ///< score function's parameters are wanted; else null
  const LaneBits* bits = nullptr;       ///< of each key of the block: the lanes that see it
  const Lane<T>* lane_rows = nullptr;   ///< of each lane the row of q and the head, and of each key
  const Lane<T>* lane_heads = nullptr;  ///< of the block its place; with a score function
  const Lane<T>* places = nullptr;
};

/// Whether some lane does not see a key of the tile that begins at `key`.
template <class T>
CASA_INLINE bool is_masked(const BackwardLanes<T>& lanes, Index key) {
  const LaneBits all = (LaneBits{1} << lanes.rows) - 1;
  LaneBits seen = all;
  CASA_UNROLL
  for (int m = 0; m < kBackwardRows; ++m) seen &= lanes.bits[key + m];
  return seen != all;
}

/// Weights of the keys of a block, count of them rounded up to whole tiles, and gradients of their
/// scores. `keys` (count, key_width) and `values` (count, value_width).
template <int N, class T, class Score>
void backward_scores(const BackwardLanes<T>& lanes, const T* keys, Index key_width, Index head_dim,
                     const T* values, Index value_width, Index value_dim, Index count,
                     const Score& score) {
  using V = simd::Vec<T>;
  constexpr Index size = simd::kLanes<T>;
  constexpr bool kScored = !std::is_same_v<Score, PlainScore>;
  const Index width = N * size;
  for (Index key = 0; key < count; key += kBackwardRows) {
    const bool masked = is_masked(lanes, key);
    const auto shown = [&](int m, int n, V x) {
      return masked ? simd::select_bits(lanes.bits[key + m] >> (n * size), x, V{}) : x;
    };
    Tile<V, kBackwardRows, N> sum;
    const auto clear = [&] {
      CASA_UNROLL
      for (int m = 0; m < kBackwardRows; ++m) {
        CASA_UNROLL
        for (int n = 0; n < N; ++n) sum[m][n] = V{};
      }
    };
    clear();
    multiply_tile<N, T>({keys + key * key_width, key_width, 1}, lanes.q, width, head_dim, sum);
    T* const weights = lanes.weights + key * width;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const V lse = simd::load(lanes.lse + n * size);
      CASA_UNROLL
      for (int m = 0; m < kBackwardRows; ++m) {
        V s = sum[m][n];
        if constexpr (kScored) {
          if (lanes.raw != nullptr) simd::store(lanes.raw + (key + m) * width + n * size, s);
          constexpr T log2e = static_cast<T>(1.4426950408889634073599L);
          const DualPlaces<LanePlaces<T, 0>> at(
              {lanes.lane_rows + n * size, lanes.lane_heads + n * size, lanes.places + key + m});
          const Dual<V> changed =
              apply_score(score, Dual<V>{s, simd::broadcast(T(1))}, at, score_rows(score, at));
          s = changed.value * log2e;
          simd::store(lanes.slopes + (key + m) * width + n * size, changed.slope);
        }
        // (A hidden key may have any score, also one above the log-sum-exp.)
        simd::store(weights + m * width + n * size, shown(m, n, simd::exp2(s - lse)));
      }
    }
    clear();
    multiply_tile<N, T>({values + key * value_width, value_width, 1}, lanes.d_out, width, value_dim,
                        sum);
    T* const d_scores = lanes.d_scores + key * width;
    CASA_UNROLL
    for (int n = 0; n < N; ++n) {
      const V mean = simd::load(lanes.mean + n * size);
      CASA_UNROLL
      for (int m = 0; m < kBackwardRows; ++m) {
        V d = simd::load(weights + m * width + n * size) * (sum[m][n] - mean);
        if constexpr (kScored) {
          const Index at = (key + m) * width + n * size;
          if (lanes.raw != nullptr) simd::store(lanes.d_changed + at, d);
          d *= simd::load(lanes.slopes + at);
        }
        simd::store(d_scores + m * width + n * size, shown(m, n, d));
      }
    }
  }
}

}  // namespace detail

CASA_NAMESPACE_END
