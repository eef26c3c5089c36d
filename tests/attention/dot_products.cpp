// Scores as sums of products: lengths near which the kernel changes its loops, rows whose score is
// one large sum, in which a long chain of additions shows, and the scale they are multiplied by.
#include <doctest/doctest.h>

#include <cmath>

#include "attention/problem.hpp"

using namespace casa;
using namespace attention_test;

// Faults: the last one, two or three values of a head are not multiplied; what stands behind them
// is.
TEST_CASE_TEMPLATE("a head_dim beside a multiple of everything", P, Problem<float>, Problem<double>,
                   Problem<float, bfloat16>, Problem<float, half>) {
  for (const Index d : {129, 130, 131, 190, 257})
    for (const Index rows : {1, 3, 7, 33}) {
      CAPTURE(d);
      CAPTURE(rows);
      P p({2, 1, d}, rows, {20, 31}, static_cast<unsigned>(1000 * d + rows), 1, d == 190 ? 2 : 0);
      p.intervals = causal_intervals(rows, 51);
      check_both_paths(p);
    }
}

// Row r's own key is 4 q: products of one sign, so that every rounding of a chain counts, and no
// other key has weight: the row's log-sum-exp is that one score. The acceptance rule bounds the
// worst of a few rows; of many rows a correct kernel's are off by a third of it (root mean square),
// and one in some hundreds by all of it.
//
// Faults: more than 128 products in one chain; only two parts, whatever the length.
TEST_CASE_TEMPLATE("rows that see one large score: no chain of additions is long", T, float,
                   double) {
  constexpr Index rows = 192;
  for (const Index d : {64, 128, 192, 256, 257, 512, 1024}) {
    CAPTURE(d);
    Problem<T> p({1, 1, d}, rows, {rows + 12}, static_cast<unsigned>(d));
    for (Index r = 0; r < rows; ++r) make_needle(p, r, r);
    const Reference reference = define(p);
    for (const Path path : {Path::naive, Path::fast}) {
      CAPTURE(static_cast<int>(path));
      Context context;
      context.path = path;
      const auto got = run(p, context);
      double squares = 0, worst = 0;
      for (std::size_t r = 0; r < reference.rows.size(); ++r) {
        const double lse = static_cast<double>(got.lse[r]);
        REQUIRE(std::isfinite(lse));
        const double off = std::abs(lse - reference.rows[r].lse) / reference.rows[r].lse_bound;
        squares += off * off;
        worst = std::max(worst, off);
      }
      const double mean = std::sqrt(squares / static_cast<double>(rows));
      CHECK(mean <= (path == Path::naive ? 0.3 : 0.42));
      CHECK(worst <= (path == Path::naive ? 1.0 : 1.5));
    }
  }
}

// The factor of queries, scale log2(e), is no value of T. What rounding it costs is within the
// acceptance rule, but it is the same for every product and does not average out: it would move
// all scores one way. So it is held as a value and a correction.
//
// Fault: the correction is dropped, or lost in a product that is rounded first.
TEST_CASE_TEMPLATE("queries times a scale that is no power of two are not all off in one direction",
                   T, float, double) {
  using Real = long double;
  const T eps = std::numeric_limits<T>::epsilon();
  const simd::Vec<T> above_1 = simd::broadcast(1 + eps), rounded_square = above_1 * above_1;
  const bool fuses = simd::fma(above_1, above_1, -rounded_square)[0] != 0;
  if (!fuses) MESSAGE("no fused multiply-add: a bias of half a unit is allowed");
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(1, 2);
  Real largest_correction = 0;
  for (const double scale : {default_scale(24), default_scale(40), default_scale(80),
                             default_scale(111), default_scale(128), 0.1, 0.3, 7.0}) {
    CAPTURE(scale);
    const detail::Scaling<T> scaling(scale);
    const Real exact = static_cast<Real>(scale) * std::numbers::log2e_v<Real>;
    const auto off = [&](T y, Real expected) {
      return (static_cast<Real>(y) / expected - 1) / static_cast<Real>(eps);
    };
    largest_correction = std::max(largest_correction, std::abs(off(scaling.factor, exact)));
    Real sum = 0;
    constexpr int count = 4096;
    for (int i = 0; i < count; ++i) {
      const T x = static_cast<T>(uniform(random));
      const Real one = off(scaling(simd::broadcast(x))[0], static_cast<Real>(x) * exact);
      REQUIRE(std::abs(one) <= 1);
      sum += one;
    }
    // The mean of 4096 roundings by half a unit at most is off zero by some thousandths of one.
    CHECK(std::abs(sum / count) <= (fuses ? 0.03L : 0.53L));
  }
  CHECK(largest_correction > 0.2L);  // of these scales one shows the fault
}
