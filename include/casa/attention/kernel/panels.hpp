// How a job's rows are cut into panels, and how their queries are packed.
#pragma once

#include <bit>

#include "casa/attention/kernel/score_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The most rows of a narrow panel.
template <class T>
inline constexpr Index kNarrowRows = simd::kLanes<T> / 2;

/// The most rows that are two narrow panels where queries are multiplied as Q with keys read as K:
/// a wide panel of nine rows multiplies sixteen lanes, eight rows and one multiply nine. More rows
/// do not gain, as each panel reads the keys. (9 rows over 32,768 keys against 8, a Zen 5:
/// float 1.48 times the time as one wide panel, 1.21 as two; bfloat16, of which wide panels read
/// widened copies, 1.93 and 1.25; 5 rows of double, vectors of 8 lanes, 1.18 and 1.26; pairs 1.35
/// and 1.42.)
template <class T, class Q, class K>
inline constexpr Index kTwoNarrowRows = kUnit<Q> == 2           ? 0
                                        : !std::is_same_v<K, T> ? kNarrowRows<T> * 7 / 4
                                        : simd::kLanes<T> >= 16 ? kNarrowRows<T> * 5 / 4
                                                                : 0;

/// Calls emit(first_row, rows, vectors, narrow) for every panel of a job of `rows` rows: panels of
/// two vectors, a last one of three rather than of one, and a narrow one for a remainder of at most
/// half a vector (40 rows and 16 lanes: two vectors and a narrow panel of 8). Up to `two_narrow`
/// rows are narrow panels only.
template <class T, class Emit>
void for_each_panel(Index rows, Index two_narrow, Emit emit) {
  constexpr Index lanes = simd::kLanes<T>;
  const auto emit_narrow = [&](Index first, Index count) {
    emit(first, count, 1, static_cast<int>(std::bit_ceil(static_cast<unsigned>(count))));
  };
  if (rows > kNarrowRows<T> && rows <= two_narrow) {
    emit_narrow(0, kNarrowRows<T>);
    emit_narrow(kNarrowRows<T>, rows - kNarrowRows<T>);
    return;
  }
  const Index rest = rows % lanes <= kNarrowRows<T> ? rows % lanes : 0;
  Index first = 0;
  for (Index left = (rows - rest + lanes - 1) / lanes; left > 0;) {
    const Index n = left == 3 ? 3 : (std::min<Index>)(left, 2);
    emit(first, (std::min)(n * lanes, rows - first), static_cast<int>(n), 0);
    first += n * lanes;
    left -= n;
  }
  if (rest > 0) emit_narrow(first, rest);
}

/// x times scale * log2(e), so that weights are powers of 2 (or without log2(e), where a score
/// function is given scores first). The factor is a sum of two T: its
/// rounding error is the same for every product, so that it would not average out in large scores.
/// (On machines without a fused multiply-add the second part is lost in rounding.)
template <class T>
struct Scaling {
  T factor;
  T correction;
  explicit Scaling(double scale, bool base_2 = true) {
    const long double exact =
        static_cast<long double>(scale) * (base_2 ? 1.4426950408889634073599L : 1.0L);
    factor = static_cast<T>(exact);
    correction = static_cast<T>(exact - static_cast<long double>(factor));
  }
  CASA_INLINE simd::Vec<T> operator()(simd::Vec<T> x) const {
    return simd::fma(x, simd::broadcast(factor), x * simd::broadcast(correction));
  }
};

/// Packs the queries of a wide panel (rows[r]: head_dim values) as (head_dim, width), or as (pairs
/// of dimensions, width). Lanes without a row repeat the last row.
template <class Q, class T>
void pack_wide(const QueryPanel<T>& panel, const T* const* rows, Index head_dim,
               Scaling<T> scaling) {
  constexpr Index lanes = simd::kLanes<T>, unit = kUnit<Q>;
  constexpr int count = static_cast<int>(lanes);
  const Index width = panel.vectors * lanes;
  for (int n = 0; n < panel.vectors; ++n) {
    Q* q = static_cast<Q*>(panel.q) + n * lanes;
    Row<const T*, count> source;
    for (Index r = 0; r < lanes; ++r) source[r] = rows[(std::min)(n * lanes + r, panel.rows - 1)];
    Index i = 0;
    for (; i + lanes <= head_dim; i += lanes) {
      Row<simd::Vec<T>, count> square;
      CASA_UNROLL
      for (Index r = 0; r < lanes; ++r) square[r] = scaling(simd::load(source[r] + i));
      simd::transpose(square);
      CASA_UNROLL
      for (Index c = 0; c < lanes; c += unit) {
        if constexpr (unit == 2)
          simd::store(q, simd::to_pairs<count>(square[c], square[c + 1]));
        else
          simd::store(q, square[c]);
        q += width;
      }
    }
    if constexpr (unit == 1)  // (pairs are of whole vectors)
      for (; i < head_dim; ++i, q += width)
        for (Index r = 0; r < lanes; ++r) q[r] = scaling(simd::broadcast(source[r][i]))[0];
  }
}

/// Packs the queries of a narrow panel as (head_dim / lanes, row, lane), the last dimensions padded
/// with zeros. Lanes are in the order in which load_two() gives keys of type K
/// (simd/lane_order.hpp).
template <class Q, class K, class T>
void pack_narrow(const QueryPanel<T>& panel, const T* const* rows, Index head_dim,
                 Scaling<T> scaling) {
  constexpr Index lanes = simd::kLanes<T>;
  const Index step = panel.narrow * lanes;
  for (Index r = 0; r < panel.narrow; ++r) {
    const T* source = rows[(std::min<Index>)(r, panel.rows - 1)];
    Q* to = static_cast<Q*>(panel.q) + r * lanes;
    Index i = 0;
    const auto next = [&] {
      const T* at = source + i;
      const Index n = (std::min)(lanes, head_dim - i);
      i += n;
      return scaling(n == lanes ? simd::load(at) : simd::load_partial(at, n));
    };
    while (i < head_dim) {  // NOLINT(bugprone-infinite-loop): next() moves i on
      if constexpr (kUnit<Q> == 2) {
        const auto a = next();
        simd::store(to, simd::to_pairs<1>(a, next()));
      } else if (i + 2 * lanes <= head_dim) {
        auto a = next(), b = next();
        if constexpr (simd::kLoadsPairs<K>) simd::split_pair(a, b);
        simd::store(to, a);
        simd::store(to += step, b);
      } else {
        simd::store(to, next());
      }
      to += step;
    }
  }
}

/// Packs a panel's queries as Q, the type they are multiplied as, for keys that tiles read as K.
template <class Q, class K, class T>
void pack(const QueryPanel<T>& panel, const T* const* rows, Index head_dim, Scaling<T> scaling) {
  if (panel.narrow > 0)
    pack_narrow<Q, K>(panel, rows, head_dim, scaling);
  else
    pack_wide<Q>(panel, rows, head_dim, scaling);
}

}  // namespace detail

CASA_NAMESPACE_END
