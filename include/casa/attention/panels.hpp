// A job's queries as panels: how its rows are cut, and how they are packed.
#pragma once

#include "casa/attention/score_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The fold with which `rows` < lanes rows fill a vector best; 1: as a wide panel.
template <class E, class T>
int fold_of(Index rows, Index head_dim) {
  int fold = 1;
  while (fold < kMaxFold<E, T> && head_dim % (2 * fold) == 0 && rows * fold * 2 <= simd::kLanes<T>)
    fold *= 2;
  return fold;
}

/// emit(first_row, rows, vectors, fold) for every panel of a job of `rows` rows: pairs of vectors,
/// and one of three rather than a single one.
template <class E, class T, class Emit>
void for_each_panel(Index rows, Index head_dim, Emit emit) {
  constexpr Index lanes = simd::kLanes<T>;
  const Index rest = rows % lanes;
  const int fold = rest > 0 ? fold_of<E, T>(rest, head_dim) : 1;
  Index first = 0;
  for (Index left = fold > 1 ? rows / lanes : (rows + lanes - 1) / lanes; left > 0;) {
    const Index n = left == 3 ? 3 : (std::min<Index>)(left, 2);
    emit(first, (std::min)(n * lanes, rows - first), static_cast<int>(n), 1);
    first += n * lanes;
    left -= n;
  }
  if (fold > 1) emit(first, rest, 1, fold);
}

/// x times scale log2(e) (so that weights are powers of 2), the factor in two parts: rounding it,
/// or the product twice, would show in large scores.
template <class T>
struct Scaling {
  T factor;
  T correction;
  explicit Scaling(double scale) {
    const long double exact = static_cast<long double>(scale) * 1.4426950408889634073599L;
    factor = static_cast<T>(exact);
    correction = static_cast<T>(exact - static_cast<long double>(factor));
  }
  CASA_INLINE simd::Vec<T> operator()(simd::Vec<T> x) const {
    return simd::fma(x, simd::broadcast(factor), x * simd::broadcast(correction));
  }
  T operator()(T x) const { return x * factor + x * correction; }
};

/// Packs panel.rows rows (rows[r]: head_dim values) as (head_dim, width); lanes without a row
/// repeat the last one.
template <class T>
void pack_wide(const Panel<T>& panel, const T* const* rows, Index head_dim, Scaling<T> scaling) {
  constexpr Index lanes = simd::kLanes<T>;
  constexpr int count = static_cast<int>(lanes);
  const Index width = panel.vectors * lanes;
  for (int n = 0; n < panel.vectors; ++n) {
    Row<const T*, count> source;
    for (Index r = 0; r < lanes; ++r) source[r] = rows[(std::min)(n * lanes + r, panel.rows - 1)];
    Index i = 0;
    for (; i + lanes <= head_dim; i += lanes) {
      Row<simd::Vec<T>, count> square;
      CASA_UNROLL
      for (Index r = 0; r < lanes; ++r) square[r] = scaling(simd::load(source[r] + i));
      simd::transpose(square);
      CASA_UNROLL
      for (Index c = 0; c < lanes; ++c)
        simd::store(panel.q + (i + c) * width + n * lanes, square[c]);
    }
    for (; i < head_dim; ++i)
      for (Index r = 0; r < lanes; ++r) panel.q[i * width + n * lanes + r] = scaling(source[r][i]);
  }
}

/// Packs as (head_dim / fold, row, fold), in the order of broadcast_step.
template <int Fold, class E, class T>
void pack_folded(const Panel<T>& panel, const T* const* rows, Index head_dim, Scaling<T> scaling) {
  constexpr Index lanes = simd::kLanes<T>;
  constexpr Index width = lanes / Fold;
  for (Index r = 0; r < width; ++r) {
    const T* source = rows[(std::min)(r, panel.rows - 1)];
    T* to = panel.q + r * Fold;
    Index i = 0;
    for (; i + lanes <= head_dim; i += lanes) {
      Row<T, static_cast<int>(lanes)> scaled;
      simd::Vec<T> x = scaling(simd::load(source + i));
      if constexpr (std::is_same_v<E, bfloat16>) x = simd::split_pairs<Fold>(x);
      simd::store(scaled, x);
      CASA_UNROLL
      for (Index c = 0; c < width; ++c)
        std::memcpy(to + (i / Fold + c) * lanes, scaled + c * Fold, Fold * sizeof(T));
    }
    for (; i < head_dim; ++i) to[i / Fold * lanes + i % Fold] = scaling(source[i]);
  }
}

/// For keys of type E.
template <class E, class T>
void pack(const Panel<T>& panel, const T* const* rows, Index head_dim, Scaling<T> scaling) {
  switch (panel.fold) {
    case 2:
      if constexpr (kMaxFold<E, T> >= 2) return pack_folded<2, E>(panel, rows, head_dim, scaling);
      break;
    case 4:
      if constexpr (kMaxFold<E, T> >= 4) return pack_folded<4, E>(panel, rows, head_dim, scaling);
      break;
    case 8:
      if constexpr (kMaxFold<E, T> >= 8) return pack_folded<8, E>(panel, rows, head_dim, scaling);
      break;
    default:
      pack_wide(panel, rows, head_dim, scaling);
  }
}

}  // namespace detail

CASA_NAMESPACE_END
