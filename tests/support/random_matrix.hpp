// Seeded random inputs for the tests of layers.
#pragma once

#include <cstring>
#include <random>

#include "casa/core/memory.hpp"
#include "casa/core/scalar.hpp"

namespace casa_test {

/// Rows x cols values of N(0, sigma^2).
template <class T>
casa::Matrix<T> random_matrix(std::mt19937_64& rng, casa::Index rows, casa::Index cols,
                              double sigma = 1) {
  std::normal_distribution<double> normal(0, sigma);
  casa::Matrix<T> m(rows, cols);
  for (casa::Index i = 0; i < m.size(); ++i) m.data()[i] = casa::narrow<T>(normal(rng));
  return m;
}

/// The values of m as S.
template <class S, class T>
casa::Matrix<S> stored_as(const casa::Matrix<T>& m) {
  casa::Matrix<S> s(m.rows(), m.cols());
  for (casa::Index i = 0; i < m.size(); ++i) s.data()[i] = casa::narrow<S>(m.data()[i]);
  return s;
}

template <class T>
bool same_bits(const T* a, const T* b, casa::Index n) {
  return n == 0 || std::memcmp(a, b, static_cast<std::size_t>(n) * sizeof(T)) == 0;
}
template <class T>
bool same_bits(const casa::Matrix<T>& a, const casa::Matrix<T>& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && same_bits(a.data(), b.data(), a.size());
}

}  // namespace casa_test
