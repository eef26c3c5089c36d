#include "casa/layers/rms_norm.hpp"

#include <doctest/doctest.h>

#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

TEST_CASE_TEMPLATE("RMSNorm divides by the root mean square and multiplies by the weight", T, float,
                   double) {
  const double eps_t = static_cast<double>(std::numeric_limits<T>::epsilon());
  std::uint64_t seed = 1;
  for (const Index d : {1, 2, 7, 15, 16, 17, 64, 100, 576, 2048}) {
    for (const double eps : {1e-8, 1e-5, 0.1}) {
      for (const double sigma : {1e-3, 1.0, 1e4}) {
        CAPTURE(d);
        CAPTURE(seed);
        std::mt19937_64 rng(seed++);
        const Matrix<T> x = random_matrix<T>(rng, 3, d, sigma), w = random_matrix<T>(rng, 1, d);
        const std::span<const T> weight(w.data(), static_cast<std::size_t>(d));
        for (const Path path : {Path::fast, Path::naive}) {
          Context context{.path = path};
          Matrix<T> y(3, d);
          rms_norm<T>(x, weight, eps, y, context);
          for (Index r = 0; r < 3; ++r) {
            double sum = 0;
            for (Index c = 0; c < d; ++c)
              sum += static_cast<double>(x(r, c)) * static_cast<double>(x(r, c));
            const double scale = 1 / std::sqrt(sum / static_cast<double>(d) + eps);
            for (Index c = 0; c < d; ++c) {
              const double expected =
                  static_cast<double>(x(r, c)) * scale * static_cast<double>(w(0, c));
              REQUIRE(std::isfinite(y(r, c)));
              // Half of the sum's error (d terms in order at worst), and a few roundings.
              REQUIRE(std::abs(static_cast<double>(y(r, c)) - expected) <=
                      eps_t * (static_cast<double>(d) / 4 + 4) * std::abs(expected));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("RMSNorm in place, of a zero row, and of rows with a stride") {
  Context context;
  std::mt19937_64 rng(5);
  Matrix<float> x = random_matrix<float>(rng, 4, 33);
  std::fill_n(x.row(2), 33, 0.0f);
  const Matrix<float> w = random_matrix<float>(rng, 1, 33);
  const std::span<const float> weight(w.data(), 33);
  Matrix<float> y(4, 33), wide(4, 50);
  rms_norm<float>(x, weight, 1e-6, y, context);
  for (Index c = 0; c < 33; ++c) CHECK(y(2, c) == 0);
  wide.fill(9);
  for (Index r = 0; r < 4; ++r) std::copy_n(x.row(r), 33, wide.row(r));
  rms_norm<float>(wide.view().middle_cols(0, 33), weight, 1e-6, wide.view().middle_cols(0, 33),
                  context);
  for (Index r = 0; r < 4; ++r) {
    CHECK(same_bits(wide.row(r), y.row(r), 33));
    for (Index c = 33; c < 50; ++c) CHECK(wide(r, c) == 9);
  }
  rms_norm<float>(x, weight, 1e-6, x, context);
  CHECK(same_bits(x.data(), y.data(), x.size()));
}

TEST_CASE("RMSNorm has the same bits on any number of threads and for a row alone") {
  std::mt19937_64 rng(6);
  const Matrix<float> x = random_matrix<float>(rng, 70, 90), w = random_matrix<float>(rng, 1, 90);
  const std::span<const float> weight(w.data(), 90);
  Context serial;
  Matrix<float> y(70, 90), z(70, 90);
  rms_norm<float>(x, weight, 1e-6, y, serial);
  ThreadPool pool(3);
  Context context{.executor = pool};
  rms_norm<float>(x, weight, 1e-6, z, context);
  CHECK(same_bits(y.data(), z.data(), y.size()));
  for (Index r = 0; r < 70; ++r)
    rms_norm<float>(x.view().middle_rows(r, 1), weight, 1e-6, z.view().middle_rows(r, 1), serial);
  CHECK(same_bits(y.data(), z.data(), y.size()));
}

TEST_CASE("RMSNorm refuses shapes that do not belong together") {
  Context context;
  Matrix<float> x(2, 3), y(2, 4), z(3, 3);
  const float w[4] = {};
  CHECK_THROWS_WITH_AS(rms_norm<float>(x, std::span(w, 4), 1e-6, x, context),
                       "rms_norm: values of weight: expected 3, got 4", error);
  CHECK_THROWS_AS(rms_norm<float>(x, std::span(w, 3), 1e-6, y, context), error);
  CHECK_THROWS_AS(rms_norm<float>(x, std::span(w, 3), 1e-6, z, context), error);
}
