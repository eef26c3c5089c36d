// Softmax of one row of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "casa/core/error.hpp"
#include "casa/simd/elementwise.hpp"

CASA_NAMESPACE_BEGIN

/// out = exp(x - max) / sum of the same; returns log-sum-exp of x. out may be x. A value of -inf
/// gets probability 0; a row with nothing above -inf is all zeros with log-sum-exp -inf; a row with
/// NaN or +inf is NaN. Throws casa::error unless out has as many values as x.
template <Scalar T>
T softmax(std::span<const T> x, std::span<T> out) {
  using V = simd::Vec<T>;
  require_equal("softmax: values of out", out.size(), x.size());
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const auto size = static_cast<Index>(x.size());
  const T* from = x.data();
  T* to = out.data();

  V highest = simd::broadcast<T>(-infinity);
  Index c = 0;
  for (; c + simd::kLanes<T> <= size; c += simd::kLanes<T>)
    highest = (simd::max)(simd::load(from + c), highest);  // ignores NaN, which shows in the sums
  T largest = simd::reduce_max(highest);
  for (; c < size; ++c) largest = (std::max)(largest, from[c]);
  if (largest == -infinity) {
    bool has_nan = false;
    for (const T v : x) has_nan |= std::isnan(v);
    if (!has_nan) {
      std::fill(out.begin(), out.end(), T{0});
      return largest;
    }
  }

  V sums{};
  detail::for_each_vector<T>(size, [&](Index at, Index n) {
    const V e = simd::exp(detail::load_n(from + at, n) - largest);
    detail::store_n(to + at, e, n);
    if (n == simd::kLanes<T>) {
      sums += e;
    } else {
      for (Index i = 0; i < n; ++i) sums[i] += e[i];
    }
  });
  const T sum = simd::reduce_add(sums);
  detail::for_each_vector<T>(size, [&](Index at, Index n) {
    detail::store_n(to + at, detail::load_n(to + at, n) / sum, n);
  });
  return largest + std::log(sum);
}

CASA_NAMESPACE_END
