#include "casa/layers/softmax.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

TEST_CASE_TEMPLATE("softmax of a row, and its log-sum-exp", T, float, double) {
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  std::uint64_t seed = 1;
  for (const Index n : {1, 2, 15, 16, 17, 33, 1000}) {
    for (const double sigma : {0.01, 1.0, 30.0, 1e4}) {
      for (const double shift : {0.0, 1e5, -1e5}) {
        CAPTURE(seed);
        CAPTURE(n);
        std::mt19937_64 rng(seed++);
        Matrix<T> x = random_matrix<T>(rng, 1, n, sigma);
        for (T& v : std::span(x.data(), static_cast<std::size_t>(n))) v += static_cast<T>(shift);
        double largest = static_cast<double>(x(0, 0)), sum = 0;
        for (Index i = 0; i < n; ++i) largest = std::max(largest, static_cast<double>(x(0, i)));
        for (Index i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x(0, i)) - largest);
        std::vector<T> p(static_cast<std::size_t>(n));
        const double lse = static_cast<double>(softmax<T>({x.data(), p.size()}, p));
        CHECK(std::abs(lse - (largest + std::log(sum))) <=
              eps * (std::abs(lse) + 4 + static_cast<double>(n)));
        for (Index i = 0; i < n; ++i) {
          const double below = static_cast<double>(x(0, i)) - largest;
          const double expected = std::exp(below) / sum;
          const double got = static_cast<double>(p[static_cast<std::size_t>(i)]);
          REQUIRE(std::isfinite(got));
          // x - max is rounded by eps |x - max| / 2, which e^x magnifies; then exp, sum, division.
          REQUIRE(std::abs(got - expected) <=
                  eps * (std::abs(below) + 4 + static_cast<double>(n) / 16) * expected +
                      static_cast<double>(std::numeric_limits<T>::min()));
        }
      }
    }
  }
}

TEST_CASE("softmax at the edges: nothing visible, one visible, NaN, infinity") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::size_t n : {std::size_t{1}, std::size_t{5}, std::size_t{16}, std::size_t{40}}) {
    CAPTURE(n);
    std::vector<float> x(n, -inf), p(n, 7);
    CHECK(softmax<float>(x, p) == -inf);
    for (const float v : p) CHECK(v == 0);
    for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
      x.assign(n, -inf);
      x[at] = -1e30f;
      CHECK(softmax<float>(x, p) == -1e30f);
      for (std::size_t i = 0; i < n; ++i) CHECK(p[i] == (i == at ? 1 : 0));
      for (const float bad : {nan, inf}) {
        for (const float rest : {-inf, 0.0f}) {
          x.assign(n, rest);
          x[at] = bad;
          softmax<float>(x, p);
          for (const float v : p) CHECK(std::isnan(v));
        }
      }
    }
  }
  std::vector<float> x(3), p(2);
  CHECK_THROWS_AS(softmax<float>(x, p), error);
  std::vector<float> none;
  CHECK(softmax<float>(none, none) == -inf);
}

TEST_CASE("softmax may write over its input") {
  std::mt19937_64 rng(3);
  Matrix<float> x = random_matrix<float>(rng, 1, 37);
  std::vector<float> p(37);
  const float a = softmax<float>({x.data(), 37}, p);
  const float b = softmax<float>({x.data(), 37}, {x.data(), 37});
  CHECK(a == b);
  CHECK(same_bits(x.data(), p.data(), 37));
}
