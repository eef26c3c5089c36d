// Precision::int8: rows of x are rounded to int8 where they meet int8 weights.
#include <doctest/doctest.h>

#include <array>
#include <cmath>

#include "casa/linear/linear.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

namespace {

constexpr Precision kInt8 = Precision::int8;

// A group of a row or of an output: whole numbers of steps.
struct Steps {
  float scale = 0;
  std::array<int, std::size_t{kRowGroup}> values = {};
};

Steps steps_of_row(const float* x, Index count) {
  Steps s;
  float largest = 0;
  for (Index i = 0; i < count; ++i) largest = std::max(largest, std::abs(x[i]));
  s.scale = largest / 127.0f;
  if (s.scale < std::numeric_limits<float>::min()) {
    s.scale = 0;
    return s;
  }
  const float factor = 1.0f / s.scale;
  for (Index i = 0; i < count; ++i) {
    volatile float product = x[i] * factor;  // rounded by itself
    s.values[static_cast<std::size_t>(i)] = static_cast<int>(std::nearbyint(product));
    REQUIRE(std::abs(s.values[static_cast<std::size_t>(i)]) <= 127);
  }
  return s;
}
Steps steps_of_weights(const float* w, Index count) {
  Steps s;
  float largest = 0;
  for (Index i = 0; i < count; ++i) largest = std::max(largest, std::abs(w[i]));
  s.scale = widen(quant_scale(largest));
  for (Index i = 0; i < count; ++i) s.values[static_cast<std::size_t>(i)] = quantize(w[i], s.scale);
  return s;
}

// What linear.hpp says an output is, value by value.
float define(const float* x, const float* w, Index depth) {
  float total = 0;
  for (Index g = 0; g < depth; g += kRowGroup) {
    const Steps row = steps_of_row(x + g, std::min(kRowGroup, depth - g));
    float part = 0;
    for (Index h = g; h < std::min(depth, g + kRowGroup); h += kQuantGroup) {
      const Index count = std::min(kQuantGroup, depth - h);
      const Steps weights = steps_of_weights(w + h, count);
      int sum = 0;
      for (Index i = 0; i < count; ++i)
        sum += row.values[static_cast<std::size_t>(h - g + i)] *
               weights.values[static_cast<std::size_t>(i)];
      part = std::fma(static_cast<float>(sum), weights.scale, part);
    }
    total = std::fma(part, row.scale, total);
  }
  return total;
}

// Some rows: zeros, one large value, all equal, alternating signs at the ends of the range.
Matrix<float> awkward_rows(std::mt19937_64& rng, Index rows, Index cols) {
  Matrix<float> x = random_matrix<float>(rng, rows, cols);
  for (Index r = 0; r < rows; ++r)
    for (Index c = 0; c < cols; ++c) switch (r % 6) {
        case 1:
          x(r, c) = 0;
          break;
        case 2:
          if (c % 64 == 5) x(r, c) *= 1000;
          break;
        case 3:
          x(r, c) = c % 2 ? -3.5f : 3.5f;
          break;
        case 4:
          if (c < 64) x(r, c) *= 1e-38f;
          break;
        default:
          break;
      }
  return x;
}

}  // namespace

// Faults: a sum that begins without the offset's part; the scale of the wrong half of a group; a
// last group that reads on; weights' rows in another order in the quads.
TEST_CASE("int8 rows: every output has the bits of the definition, on every machine") {
  struct Shape {
    Index rows, in, out;
  };
  std::uint64_t seed = 1;
  for (const Shape& s :
       {Shape{1, 1, 1}, Shape{1, 64, 32}, Shape{2, 33, 65}, Shape{3, 7, 5}, Shape{4, 100, 48},
        Shape{5, 31, 128}, Shape{6, 63, 64}, Shape{7, 576, 19}, Shape{11, 40, 40},
        Shape{12, 96, 64}, Shape{13, 520, 33}, Shape{20, 65, 96}, Shape{29, 17, 70},
        Shape{1, 515, 300}, Shape{150, 129, 40}, Shape{61, 1100, 70}}) {
    CAPTURE(seed);
    CAPTURE(s.rows);
    CAPTURE(s.in);
    std::mt19937_64 rng(seed++);
    Matrix<float> w = random_matrix<float>(rng, s.out, s.in);
    for (Index c = 0; c < s.in; ++c) {
      w(0, c) = c % 2 ? 127.0f : -127.0f;
      if (s.out > 3) w(3, c) = 0;
    }
    const Matrix<float> x = awkward_rows(rng, s.rows, s.in);
    const Matrix<float> b = random_matrix<float>(rng, 1, s.out);
    const Matrix<float> before = random_matrix<float>(rng, s.rows, s.out);
    const Linear<float> linear({w, b}, WeightType::int8);
    Matrix<float> expected(s.rows, s.out), y(s.rows, s.out), sum = before;
    for (Index r = 0; r < s.rows; ++r)
      for (Index o = 0; o < s.out; ++o) expected(r, o) = define(x.row(r), w.row(o), s.in) + b(0, o);
    for (const Index threads : {1, 3}) {
      ThreadPool pool(threads);
      const Context context{.executor = pool, .precision = kInt8};
      y.fill(std::numeric_limits<float>::quiet_NaN());
      linear.forward(x, y, context);
      REQUIRE(same_bits(y.data(), expected.data(), y.size()));
    }
    linear.forward(x, sum, Context{.precision = kInt8}, Accumulate::yes);
    for (Index i = 0; i < sum.size(); ++i)
      REQUIRE(sum.data()[i] == before.data()[i] + expected.data()[i]);
  }
}

TEST_CASE("int8 rows: bits do not depend on the rows beside it nor on threads") {
  std::mt19937_64 rng(7);
  const Index rows = 290, in = 1100, out = 150;
  const Matrix<float> w = random_matrix<float>(rng, out, in);
  const Matrix<float> x = random_matrix<float>(rng, rows, in);
  const Linear<float> linear({w}, WeightType::int8);
  const Context serial{.precision = kInt8};
  Matrix<float> whole(rows, out), part(rows, out);
  linear.forward(x, whole, serial);
  for (const Index chunk : {1, 2, 5, 6, 7, 13, 31, 100}) {
    CAPTURE(chunk);
    part.fill(0);
    for (Index r = 0; r < rows; r += chunk) {
      const Index n = std::min(chunk, rows - r);
      linear.forward(x.view().middle_rows(r, n), part.view().middle_rows(r, n), serial);
    }
    REQUIRE(same_bits(part.data(), whole.data(), whole.size()));
  }
  for (const Index threads : {2, 3, 4, 7}) {
    ThreadPool pool(threads);
    const Context context{.executor = pool, .precision = kInt8};
    part.fill(0);
    linear.forward(x, part, context);
    REQUIRE(same_bits(part.data(), whole.data(), whole.size()));
  }
}

TEST_CASE("int8 rows: the result is within the stated bound of the row's own product") {
  std::uint64_t seed = 30;
  for (const Index in : {5, 64, 100, 576, 1100})
    for (const double sigma : {1e-10, 1.0, 1e6}) {
      CAPTURE(seed);
      std::mt19937_64 rng(seed++);
      const Index rows = 9, out = 40;
      const Matrix<float> x = random_matrix<float>(rng, rows, in, sigma);
      const Linear<float> linear({random_matrix<float>(rng, out, in)}, WeightType::int8);
      const Matrix<float> w = linear.unpacked();
      Matrix<float> y(rows, out), naive(rows, out);
      linear.forward(x, y, Context{.precision = kInt8});
      linear.forward(x, naive, Context{.path = Path::naive, .precision = kInt8});
      for (Index r = 0; r < rows; ++r)
        for (Index o = 0; o < out; ++o) {
          double exact = 0, rounding = 0, sizes = 0;
          for (Index g = 0; g < in; g += kRowGroup) {
            double largest = 0, weights = 0;
            for (Index c = g; c < std::min(in, g + kRowGroup); ++c) {
              const double xc = static_cast<double>(x(r, c)), wc = static_cast<double>(w(o, c));
              exact += xc * wc;
              largest = std::max(largest, std::abs(xc));
              weights += std::abs(wc);
            }
            rounding += largest / 254 * weights;
            sizes += largest * weights;  // no less than the sum of |s q w t|
          }
          const double sum = 0x1p-24 * (static_cast<double>(in) / 32 + 3) * sizes;
          const double off = std::abs(static_cast<double>(y(r, o)) - exact);
          REQUIRE(std::isfinite(y(r, o)));
          REQUIRE(off <= rounding * (1 + 0x1p-14) + sum);
          // The naive path rounds the same rows: only the rounding of the sum is between them.
          REQUIRE(std::abs(static_cast<double>(y(r, o)) - static_cast<double>(naive(r, o))) <=
                  sum + 0x1p-24 * sizes);
        }
    }
}

TEST_CASE("int8 rows: a row that holds NaN or infinity gives NaN, alone") {
  std::mt19937_64 rng(11);
  const Linear<float> linear({random_matrix<float>(rng, 40, 200)}, WeightType::int8);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
    for (const Path path : {Path::fast, Path::naive}) {
      Matrix<float> x = random_matrix<float>(rng, 20, 200), y(20, 40);
      x(6, 130) = bad;
      linear.forward(x, y, Context{.path = path, .precision = kInt8});
      for (Index r = 0; r < 20; ++r)
        for (Index c = 0; c < 40; ++c) REQUIRE(std::isnan(y(r, c)) == (r == 6));
    }
}

TEST_CASE("int8 rows: other types of weights are computed as with Precision::storage") {
  std::mt19937_64 rng(12);
  const Matrix<float> w = random_matrix<float>(rng, 40, 200),
                      x = random_matrix<float>(rng, 20, 200);
  for (const WeightType type : {WeightType::native, WeightType::bfloat16, WeightType::half}) {
    const Linear<float> linear({w}, type);
    Matrix<float> y(20, 40), expected(20, 40);
    linear.forward(x, y, Context{.precision = kInt8});
    linear.forward(x, expected, Context{.precision = Precision::storage});
    CHECK(same_bits(y.data(), expected.data(), y.size()));
  }
}
