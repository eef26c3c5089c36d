// Softmax of one row, as sampling needs it.
#pragma once

#include <cmath>
#include <limits>
#include <span>

#include "casa/core/error.hpp"
#include "casa/core/scalar.hpp"

CASA_NAMESPACE_BEGIN

/// out = exp(x - max) / sum of the same; returns log-sum-exp of x. out may be x. A value of -inf
/// gets probability 0; a row with nothing above -inf is all zeros with log-sum-exp -inf; NaN stays
/// NaN.
template <Scalar T>
T softmax(std::span<const T> x, std::span<T> out) {
  require_equal("softmax: values of out", out.size(), x.size());
  T largest = -std::numeric_limits<T>::infinity();
  for (const T v : x) largest = v > largest || v != v ? v : largest;
  if (largest == -std::numeric_limits<T>::infinity()) {
    for (T& o : out) o = 0;
    return largest;
  }
  T sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += out[i] = std::exp(x[i] - largest);
  for (T& o : out) o /= sum;
  return largest + std::log(sum);
}

CASA_NAMESPACE_END
