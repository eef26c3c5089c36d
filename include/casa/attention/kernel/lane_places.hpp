// Where the scores of a tile stand, as score functions ask for it: ScorePlace for vectors.
#pragma once

#include <algorithm>
#include <type_traits>

#include "casa/attention/score_place.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The integer as wide as T, in which rows, heads and keys are counted for score functions.
template <class T>
using Lane = simd::detail::IntOf<T>;

/// Rows, heads and keys of one vector of scores. R = 0: lanes are rows of a wide panel, and all
/// have the key keys[0]; R > 0: lane k R + r is row r and keys[k] of a narrow panel. It has the
/// members of ScalarPlace, which says what they are.
template <class T, int R>
class LanePlaces {
  static constexpr Index lanes = simd::kLanes<T>;
  static constexpr int kRows = R == 0 ? 1 : R;
  static constexpr std::size_t kCount = static_cast<std::size_t>(lanes);
  using Lanes = simd::detail::LaneSequence<T>;

 public:
  using Number = simd::Vec<T>;
  using Integer = simd::IntVec<T>;

  /// `rows` and `heads` of each lane; `keys`: one, or a vector of them of which lanes / R are used.
  CASA_INLINE LanePlaces(const Lane<T>* rows, const Lane<T>* heads, const Lane<T>* keys)
      : rows_(rows), heads_(heads), keys_(keys) {}

  CASA_INLINE Integer row() const { return simd::detail::load_as<Integer>(rows_); }
  CASA_INLINE Integer head() const { return simd::detail::load_as<Integer>(heads_); }
  CASA_INLINE Integer key() const { return spread(keys_); }

  template <class X>
  CASA_INLINE Number number(X x) const {
    if constexpr (std::is_arithmetic_v<X>)
      return simd::broadcast(static_cast<T>(x));
    else
      return __builtin_convertvector(x, Number);
  }
  template <class F>
  CASA_INLINE auto of_key(F f) const {
    using X = Of<decltype(f(Index{}))>;
    X x[R == 0 ? 1 : kCount];  // (a whole vector is read)
    for (Index k = 0; k < (R == 0 ? 1 : lanes / kRows); ++k)
      x[k] = static_cast<X>(f(Index{keys_[k]}));
    return spread(x);
  }
  template <class F>
  CASA_INLINE auto of_row(F f) const {
    return each<decltype(f(Index{}, Index{}))>(
        [&](Index l) { return f(Index{rows_[l]}, Index{heads_[l]}); });
  }
  template <class F>
  CASA_INLINE auto of_pair(F f) const {
    return each<decltype(f(Index{}, Index{}, Index{}))>([&](Index l) {
      return f(Index{rows_[l]}, Index{heads_[l]}, Index{keys_[R == 0 ? 0 : l / kRows]});
    });
  }
  template <Scalar P>
  CASA_INLINE Number lookup(const P* table, Integer i) const {
    return each<T>([&](Index l) { return table[i[l]]; });
  }

  CASA_INLINE Number tanh(Number x) const { return simd::tanh(x); }
  CASA_INLINE Number exp(Number x) const { return simd::exp(x); }
  CASA_INLINE Number(min)(Number a, Number b) const { return (simd::min)(a, b); }
  CASA_INLINE Number(max)(Number a, Number b) const { return (simd::max)(a, b); }
  CASA_INLINE Number select(Integer c, Number a, Number b) const { return simd::select(c, a, b); }
  CASA_INLINE Integer clamp(Integer i, Index low, Index high) const {
    const Integer a = simd::broadcast(static_cast<Lane<T>>(low));
    const Integer b = simd::broadcast(static_cast<Lane<T>>(high));
    i = i < a ? a : i;
    return i > b ? b : i;
  }

 private:
  template <class X>
  using Of = std::conditional_t<std::is_integral_v<X>, Lane<T>, T>;

  /// Lane l becomes f(l), for f that gives an X.
  template <class X, class F>
  CASA_INLINE static auto each(F f) {
    Of<X> x[kCount];
    CASA_UNROLL
    for (Index l = 0; l < lanes; ++l) x[l] = static_cast<Of<X>>(f(l));
    return simd::detail::load_as<simd::Vec<Of<X>>>(x);
  }
  /// One value a key, for each lane its key's.
  template <class X>
  CASA_INLINE static auto spread(const X* x) {
    if constexpr (R == 0)
      return simd::broadcast(*x);
    else
      return spread(simd::detail::load_as<simd::Vec<X>>(x), Lanes{});
  }
  template <class V, std::size_t... I>
  CASA_INLINE static V spread(V v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, (static_cast<int>(I) / kRows)...);
  }

  const Lane<T>*rows_, *heads_, *keys_;
};

}  // namespace detail

CASA_NAMESPACE_END
