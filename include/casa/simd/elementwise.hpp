// A loop over a row in whole vectors and one remainder, and loads and stores that serve both.
#pragma once

#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Calls f(c, n) for c = 0, lanes, 2 lanes, ...: n = lanes for whole vectors, fewer for the
/// remainder.
template <class T, class F>
CASA_INLINE void for_each_vector(Index size, F&& f) {
  constexpr Index lanes = simd::kLanes<T>;
  Index c = 0;
  for (; c + lanes <= size; c += lanes) f(c, lanes);
  if (c < size) f(c, size - c);
}

/// The n <= lanes values at p; the other lanes are 0.
template <class T>
CASA_INLINE simd::Vec<T> load_n(const T* p, Index n) {
  return n == simd::kLanes<T> ? simd::load(p) : simd::load_partial(p, n);
}
template <class T>
CASA_INLINE void store_n(T* p, simd::Vec<T> v, Index n) {
  if (n == simd::kLanes<T>) {
    simd::store(p, v);
  } else {
    simd::store_partial(p, v, n);
  }
}

}  // namespace detail

CASA_NAMESPACE_END
