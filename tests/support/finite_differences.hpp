// Gradients by their definition: how much a function changes with each of its values.
#pragma once

#include <doctest/doctest.h>

#include <cmath>

#include "casa/core/memory.hpp"

namespace casa_test {

/// Holds `gradient`, of f() by each of `values`, to differences of f() over four points h and 2 h
/// apart: (8 (f(x + h) - f(x - h)) - (f(x + 2 h) - f(x - 2 h))) / (12 h). Of functions whose values
/// and derivatives are near 1, with h = 1e-3, that is wrong by 4 h^4 / 120 < 1e-13 times the fifth
/// derivative, and by the rounding of f: 1.5 / h = 1500 times some eps of the terms it sums. `size`
/// is the size of f's terms taken together; 1e-10 of it leaves a factor of 100 to f's own rounding
/// and 1000 to the derivative.
template <class F>
void check_gradient(casa::MatrixView<double> values, casa::MatrixView<const double> gradient,
                    double size, F&& f) {
  constexpr double h = 1e-3;
  REQUIRE(gradient.rows() == values.rows());
  REQUIRE(gradient.cols() == values.cols());
  for (casa::Index r = 0; r < values.rows(); ++r)
    for (casa::Index c = 0; c < values.cols(); ++c) {
      CAPTURE(r);
      CAPTURE(c);
      const double x = values(r, c);
      const auto at = [&](double step) {
        values(r, c) = x + step;
        return f();
      };
      const double slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      values(r, c) = x;
      REQUIRE(std::abs(slope - gradient(r, c)) <= 1e-10 * size);
    }
}

/// The sum of a's values, each times that of b: a loss whose gradient by a is b.
inline double dot(casa::MatrixView<const double> a, casa::MatrixView<const double> b) {
  return a.eigen().cwiseProduct(b.eigen()).sum();
}

}  // namespace casa_test
