// How far two matrices are apart, where a NaN is as far as can be.
#pragma once

#include <doctest/doctest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

namespace casa_test {

/// Largest |a - b|; NaN if a value of either is not finite. (Eigen's maxCoeff() and std::max may
/// drop a NaN, and what a test then compares is the rest.)
template <class A, class B>
double largest_difference(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  double most = 0;
  for (Eigen::Index r = 0; r < a.rows(); ++r)
    for (Eigen::Index c = 0; c < a.cols(); ++c) {
      const double x = static_cast<double>(a(r, c)), y = static_cast<double>(b(r, c));
      if (!std::isfinite(x) || !std::isfinite(y)) return std::numeric_limits<double>::quiet_NaN();
      most = std::max(most, std::abs(x - y));
    }
  return most;
}

/// Largest |a|; NaN if a value is not finite.
template <class A>
double largest(const Eigen::MatrixBase<A>& a) {
  return largest_difference(a, Eigen::DenseBase<A>::Zero(a.rows(), a.cols()));
}

}  // namespace casa_test
