#include "casa/layers/rope_backward.hpp"

#include <doctest/doctest.h>

#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

namespace {

template <class T>
RopeTable<T> table_of(RopeStyle style, Index rotary_dim, Index rows, double magnitude) {
  Rope rope = make_rope<T>(rotary_dim, 10000, style);
  rope.magnitude = magnitude;
  std::vector<Position> positions;
  for (Index r = 0; r < rows; ++r) positions.push_back({37 * r, 5 * r, r});
  RopeTable<T> table;
  table.assign(rope, positions, {});
  return table;
}

}  // namespace

// The transpose of a linear map: R x . y = x . R^T y for every x and y. A pair's values are summed
// from two products each, in one rounding or in three.
TEST_CASE_TEMPLATE("the gradient of a rotary embedding is its transpose", T, float, double) {
  const double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
  std::uint64_t seed = 1;
  for (const RopeStyle style : {RopeStyle::half, RopeStyle::interleaved})
    for (const Index rotary_dim : {2, 6, 32, 44})
      for (const double magnitude : {1.0, 1.3}) {
        CAPTURE(seed);
        std::mt19937_64 rng(seed++);
        const Index head_dim = rotary_dim + (seed % 2 ? 0 : 4), rows = 9, first = 2;
        const auto table = table_of<T>(style, rotary_dim, rows + first, magnitude);
        const Matrix<T> x = random_matrix<T>(rng, rows, 3 * head_dim);
        const Matrix<T> y = random_matrix<T>(rng, rows, 3 * head_dim);
        for (const Path path : {Path::fast, Path::naive}) {
          Matrix<T> there = x, back = y;
          apply_rope<T>(there, table, head_dim, {.path = path}, first);
          apply_rope_backward<T>(back, table, head_dim, {.path = path}, first);
          for (Index r = 0; r < rows; ++r) {
            double left = 0, right = 0, size = 0;
            for (Index c = 0; c < x.cols(); ++c) {
              left += static_cast<double>(there(r, c)) * static_cast<double>(y(r, c));
              right += static_cast<double>(x(r, c)) * static_cast<double>(back(r, c));
              size +=
                  std::abs(static_cast<double>(x(r, c))) + std::abs(static_cast<double>(y(r, c)));
            }
            // |x y| of a pair is at most half of x^2 + y^2; values of N(0, 1) are below 6.
            REQUIRE(std::abs(left - right) <= 3 * unit * magnitude * 6 * size);
          }
          if (head_dim > rotary_dim)
            REQUIRE(back(1, head_dim - 1) == y(1, head_dim - 1));  // not rotated
        }
        Matrix<T> serial = y, parallel = y;
        apply_rope_backward<T>(serial, table, head_dim, {}, first);
        ThreadPool pool(3);
        apply_rope_backward<T>(parallel, table, head_dim, {.executor = pool}, first);
        REQUIRE(same_bits(serial.data(), parallel.data(), serial.size()));
      }
}

TEST_CASE("the gradient of a rotary embedding refuses what the embedding refuses, by name") {
  const auto table = table_of<float>(RopeStyle::half, 8, 3, 1);
  const auto call = [&](Index rows, Index cols, Index head_dim, Index first) {
    Matrix<float> d(rows, cols);
    apply_rope_backward<float>(d, table, head_dim, {}, first);
  };
  CHECK_THROWS_WITH(call(3, 20, 8, 0), "apply_rope_backward: 20 columns are not heads of 8");
  CHECK_THROWS_WITH(call(3, 12, 6, 0), "apply_rope_backward: rotary_dim 8 exceeds head_dim 6");
  CHECK_THROWS_WITH(call(3, 16, 8, 1), "apply_rope_backward: rows [1, 4) of a table of 3");
}
