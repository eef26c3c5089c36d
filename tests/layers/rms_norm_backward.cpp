#include "casa/layers/rms_norm_backward.hpp"

#include <doctest/doctest.h>

#include "support/allocations.hpp"
#include "support/finite_differences.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

namespace {

constexpr double kEps = 1e-5;

template <class T>
std::span<T> span_of(Matrix<T>& m) {
  return {m.data(), static_cast<std::size_t>(m.size())};
}

template <class T>
struct NormProblem {
  Matrix<T> x, w, d_out, d_x, d_w;

  NormProblem(std::mt19937_64& rng, Index rows, Index d)
      : x(random_matrix<T>(rng, rows, d)),
        w(random_matrix<T>(rng, 1, d)),
        d_out(random_matrix<T>(rng, rows, d)),
        d_x(random_matrix<T>(rng, rows, d)),
        d_w(random_matrix<T>(rng, 1, d)) {}
  void run(const Context& context, Accumulate accumulate = Accumulate::no) {
    rms_norm_backward<T>(x, span_of(w), kEps, d_out, d_x, span_of(d_w), context, accumulate);
  }
};

}  // namespace

TEST_CASE("gradients of RMSNorm are the slopes of its output") {
  std::mt19937_64 rng(1);
  for (const Index d : {1, 3, 8, 21}) {
    CAPTURE(d);
    NormProblem<double> p(rng, 4, d);
    const Matrix<double> before = p.d_w;
    const auto loss = [&] {
      Matrix<double> out(4, d);
      rms_norm<double>(p.x, span_of(p.w), kEps, out, {});
      return dot(out, p.d_out);
    };
    p.run({});
    p.d_w.eigen() -= before.eigen();
    // A row's derivatives grow as those of x / |x|, with 1 / |x| each.
    const double least = p.x.eigen().rowwise().norm().minCoeff() / std::sqrt(double(d));
    const double size = double(4 * d) * std::max(1.0, std::pow(least, -5));
    check_gradient(p.x, p.d_x, size, loss);
    check_gradient(p.w, p.d_w, size, loss);
  }
}

// Both are sums of d terms, or of one a row, of some products each: in any order each term is
// rounded at most d + 12, or rows + 12, times.
TEST_CASE_TEMPLATE("fast and naive gradients of RMSNorm agree to rounding", T, float, double) {
  const double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed);
    const Index rows = 1 + static_cast<Index>(rng() % 50), d = 1 + static_cast<Index>(rng() % 200);
    NormProblem<T> fast(rng, rows, d), naive = fast;
    const Accumulate accumulate = seed % 2 ? Accumulate::yes : Accumulate::no;
    const Matrix<T> d_x = fast.d_x, d_w = fast.d_w;
    fast.run({}, accumulate);
    naive.run({.path = Path::naive}, accumulate);
    for (Index c = 0; c < d; ++c) {
      double of_w = std::abs(static_cast<double>(d_w(0, c)));
      for (Index r = 0; r < rows; ++r) {
        double squares = 0, dots = 0;
        for (Index k = 0; k < d; ++k) {
          const double x = static_cast<double>(fast.x(r, k));
          squares += x * x;
          dots += std::abs(x * static_cast<double>(fast.w(0, k) * fast.d_out(r, k)));
        }
        const double s = 1 / std::sqrt(squares / static_cast<double>(d) + kEps);
        const double x = std::abs(static_cast<double>(fast.x(r, c)));
        const double g = std::abs(static_cast<double>(fast.d_out(r, c)));
        of_w += g * x * s;
        const double size = std::abs(static_cast<double>(d_x(r, c))) +
                            s * g * std::abs(static_cast<double>(fast.w(0, c))) +
                            s * s * s * x * dots / static_cast<double>(d);
        const double off = static_cast<double>(fast.d_x(r, c) - naive.d_x(r, c));
        REQUIRE(std::abs(off) <= unit * static_cast<double>(d + 12) * size);
      }
      const double off = static_cast<double>(fast.d_w(0, c) - naive.d_w(0, c));
      REQUIRE(std::abs(off) <= unit * static_cast<double>(d + rows + 12) * of_w);
    }
  }
}

TEST_CASE_TEMPLATE("gradients of RMSNorm: threads, places and zeros", T, float, double) {
  std::mt19937_64 rng(4);
  NormProblem<T> serial(rng, 77, 100), other = serial;
  std::fill_n(serial.d_out.row(5), 100, T{0});
  other.d_out = serial.d_out;
  const Matrix<T> before = serial.d_w;
  serial.run({});
  for (Index c = 0; c < 100; ++c) REQUIRE(serial.d_x(5, c) == 0);
  for (const Index threads : {2, 3, 4}) {
    ThreadPool pool(threads);
    other.d_w = before;
    other.run({.executor = pool});
    REQUIRE(same_bits(other.d_x.data(), serial.d_x.data(), serial.d_x.size()));
    REQUIRE(same_bits(other.d_w.data(), serial.d_w.data(), serial.d_w.size()));
  }
  SUBCASE("in the place of d_out") {
    other.d_w = before;
    rms_norm_backward<T>(other.x, span_of(other.w), kEps, other.d_out, other.d_out,
                         span_of(other.d_w), {});
    REQUIRE(same_bits(other.d_out.data(), serial.d_x.data(), serial.d_x.size()));
    REQUIRE(same_bits(other.d_w.data(), serial.d_w.data(), serial.d_w.size()));
  }
  SUBCASE("in the place of x, without the weight's gradient") {
    rms_norm_backward<T>(other.x, span_of(other.w), kEps, other.d_out, other.x, {}, {});
    REQUIRE(same_bits(other.x.data(), serial.d_x.data(), serial.d_x.size()));
  }
}

TEST_CASE("gradients of RMSNorm allocate nothing once warm, and refuse wrong sizes by name") {
  std::mt19937_64 rng(4);
  NormProblem<float> p(rng, 6, 8);
  const Context context;
  for (int i = 0; i < 3; ++i) p.run(context);
  const bool counts = counts_allocations();
  const auto before = allocation_count();
  p.run(context);
  if (counts) CHECK(allocation_count() == before);
  const auto call = [&](MatrixView<float> d_out, MatrixView<float> d_x, std::span<float> d_w) {
    rms_norm_backward<float>(p.x, span_of(p.w), kEps, d_out, d_x, d_w, {});
  };
  Matrix<float> wide(6, 9), few(5, 8);
  CHECK_THROWS_WITH(call(wide, p.d_x, {}),
                    "rms_norm_backward: columns of d_out: expected 8, got 9");
  CHECK_THROWS_WITH(call(few, p.d_x, {}), "rms_norm_backward: rows of d_out: expected 6, got 5");
  CHECK_THROWS_WITH(call(p.d_out, wide, {}),
                    "rms_norm_backward: columns of d_x: expected 8, got 9");
  CHECK_THROWS_WITH(call(p.d_out, few, {}), "rms_norm_backward: rows of d_x: expected 6, got 5");
  CHECK_THROWS_WITH(call(p.d_out, p.d_x, span_of(wide)),
                    "rms_norm_backward: values of d_weight: expected 8, got 54");
}
