#include "casa/layers/cross_entropy.hpp"

#include <doctest/doctest.h>

#include "support/allocations.hpp"
#include "support/finite_differences.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

namespace {

template <class T>
struct Problem {
  Matrix<T> w, x, d_x, d_w;
  Linear<T> head;
  std::vector<int> targets;

  Problem(std::uint64_t seed, Index rows, Index hidden, Index vocabulary,
          WeightType type = WeightType::native) {
    std::mt19937_64 rng(seed);
    w = random_matrix<T>(rng, vocabulary, hidden);
    x = random_matrix<T>(rng, rows, hidden);
    d_x = random_matrix<T>(rng, rows, hidden);
    d_w = Matrix<T>(vocabulary, hidden);
    d_w.fill(T{0});
    head = Linear<T>({w}, type);
    for (Index r = 0; r < rows; ++r)
      targets.push_back(rng() % 3 == 0
                            ? kIgnoredTarget
                            : static_cast<int>(rng() % static_cast<std::uint64_t>(vocabulary)));
  }
  CrossEntropy run(double factor, const Context& context) {
    return cross_entropy_backward<T>(head, x, targets, factor, d_x, d_w, context);
  }
};

// The definition in double, and the size of each value's terms.
struct Definition {
  double sum = 0;
  Index count = 0;
  RowMatrix<double> d_x, d_w, size_x, size_w;

  template <class T>
  Definition(const Problem<T>& p, double factor) {
    const RowMatrix<double> x = p.x.eigen().template cast<double>();
    const RowMatrix<double> w = p.head.unpacked().eigen().template cast<double>();
    RowMatrix<double> d = x * w.transpose(), size = RowMatrix<double>::Zero(d.rows(), d.cols());
    for (Index r = 0; r < x.rows(); ++r) {
      const int target = p.targets[static_cast<std::size_t>(r)];
      if (target == kIgnoredTarget) {
        d.row(r).setZero();
        continue;
      }
      const double largest = d.row(r).maxCoeff(), of_target = d(r, target);
      d.row(r) = (d.row(r).array() - largest).exp();
      const double all = d.row(r).sum();
      sum += largest + std::log(all) - of_target;
      ++count;
      d.row(r) *= factor / all;
      size.row(r) = d.row(r).cwiseAbs();
      d(r, target) -= factor;
      size(r, target) += std::abs(factor);
    }
    d_x = d * w;
    d_w = d.transpose() * x;
    size_x = size * w.cwiseAbs();
    size_w = size.transpose() * x.cwiseAbs();
  }
};

}  // namespace

// A logit is a sum of `hidden` terms of N(0, 1) products, each rounded at most 2 hidden times: it
// is off by unit 2 hidden sum|x w|. The softmax weights are off by twice the largest such error, by
// 2 ulp of the exponential, and by a sum of `vocabulary` values; the sums over vocabulary or rows
// that follow add a rounding for each of their terms.
TEST_CASE_TEMPLATE("loss and gradients of chosen tokens are those of the definition", T, float,
                   double) {
  const double unit = static_cast<double>(std::numeric_limits<T>::epsilon()) / 2;
  for (std::uint64_t seed = 1; seed <= 16; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed);
    const auto draw = [&](Index most) {
      return 1 + static_cast<Index>(rng() % static_cast<std::uint64_t>(most));
    };
    const WeightType type =
        seed % 4 == 0 && std::is_same_v<T, float> ? WeightType::int8 : WeightType::native;
    Problem<T> p(seed, draw(70), draw(20), draw(150), type);
    const double factor = seed % 2 ? 1 : -0.37;
    const Definition exact(p, factor);
    double logit = 0;
    for (Index r = 0; r < p.x.rows(); ++r)
      for (Index v = 0; v < p.w.rows(); ++v)
        logit = std::max(
            logit, (p.x.eigen().row(r).template cast<double>().cwiseAbs())
                       .dot(p.head.unpacked().eigen().row(v).template cast<double>().cwiseAbs()));
    const double hidden = static_cast<double>(p.x.cols());
    const double weight =
        unit * (4 * hidden * logit + 8 + 2 * logit + static_cast<double>(p.w.rows() + 4));
    for (const Path path : {Path::fast, Path::naive}) {
      CAPTURE(path == Path::naive);
      const Context context{.path = path};
      const CrossEntropy alone = cross_entropy<T>(p.head, p.x, p.targets, context);
      p.d_w.fill(T{1});
      const CrossEntropy loss = p.run(factor, context);
      REQUIRE(loss.count == exact.count);
      REQUIRE(alone.count == exact.count);
      REQUIRE(alone.sum == loss.sum);
      REQUIRE(std::abs(loss.sum - exact.sum) <= weight * static_cast<double>(exact.count + 1));
      if (exact.count > 0) REQUIRE(loss.mean() == loss.sum / static_cast<double>(loss.count));
      for (Index c = 0; c < p.x.cols(); ++c) {
        for (Index r = 0; r < p.x.rows(); ++r) {
          const bool ignored = p.targets[static_cast<std::size_t>(r)] == kIgnoredTarget;
          if (ignored) REQUIRE(p.d_x(r, c) == 0);
          REQUIRE(std::abs(static_cast<double>(p.d_x(r, c)) - exact.d_x(r, c)) <=
                  (weight + unit * static_cast<double>(2 * p.w.rows() + 2)) * exact.size_x(r, c));
        }
        for (Index v = 0; v < p.w.rows(); ++v)
          REQUIRE(std::abs(static_cast<double>(p.d_w(v, c)) - 1 - exact.d_w(v, c)) <=
                  (weight + unit * static_cast<double>(2 * p.x.rows() + 2)) *
                      (1 + exact.size_w(v, c)));
      }
    }
  }
}

TEST_CASE("gradients of the loss are its slopes") {
  Problem<double> p(5, 6, 7, 11);
  p.targets[1] = p.targets[2] = 3;
  const CrossEntropy loss = p.run(0.5, {});
  REQUIRE(loss.count > 0);
  const auto value = [&] {
    return 0.5 * cross_entropy<double>(Linear<double>({p.w}), p.x, p.targets, {}).sum;
  };
  // The fifth derivative of a logit's direction goes with the fifth power of |w|, up to 3 sqrt(7).
  check_gradient(p.x, p.d_x, 3000, value);
  check_gradient(p.w, p.d_w, 3000, value);
}

// More rows than pass the head at a time: the parts are the same whatever the threads.
TEST_CASE_TEMPLATE("bits of the loss and its gradients do not depend on threads", T, float,
                   double) {
  Problem<T> serial(3, 1200, 10, 70), other = serial;
  REQUIRE(detail::loss_rows(800, 70) < 800);
  const CrossEntropy loss = serial.run(1, {});
  for (const Index threads : {2, 3, 4}) {
    ThreadPool pool(threads);
    other.d_w.fill(T{0});
    const CrossEntropy again = other.run(1, {.executor = pool});
    REQUIRE(again.sum == loss.sum);
    REQUIRE(same_bits(other.d_x.data(), serial.d_x.data(), serial.d_x.size()));
    REQUIRE(same_bits(other.d_w.data(), serial.d_w.data(), serial.d_w.size()));
  }
}

TEST_CASE("rows that are ignored cost nothing, and their NaN goes nowhere") {
  Problem<float> p(3, 40, 8, 30), only(3, 40, 8, 30);
  for (std::size_t r = 0; r < 40; ++r) {
    const auto row = static_cast<Index>(r);
    if (p.targets[r] == kIgnoredTarget)
      std::fill_n(p.x.row(row), 8, std::numeric_limits<float>::quiet_NaN());
  }
  const CrossEntropy a = p.run(1, {}), b = only.run(1, {});
  REQUIRE(a.sum == b.sum);
  REQUIRE(same_bits(p.d_x.data(), only.d_x.data(), p.d_x.size()));
  REQUIRE(same_bits(p.d_w.data(), only.d_w.data(), p.d_w.size()));

  Problem<float> frozen = only;  // in the place of x, without the weight's gradient
  cross_entropy_backward<float>(frozen.head, frozen.x, frozen.targets, 1, frozen.x, {}, {});
  REQUIRE(same_bits(frozen.x.data(), only.d_x.data(), only.d_x.size()));

  p.d_w.fill(3);
  std::fill(p.targets.begin(), p.targets.end(), kIgnoredTarget);
  const CrossEntropy none = p.run(1, {});
  CHECK(none.count == 0);
  CHECK(none.sum == 0);
  CHECK(none.mean() == 0);
  for (Index i = 0; i < p.d_x.size(); ++i) REQUIRE(p.d_x.data()[i] == 0);
  for (Index i = 0; i < p.d_w.size(); ++i) REQUIRE(p.d_w.data()[i] == 3);
}

TEST_CASE("logits that are far apart: the loss is their difference") {
  Matrix<float> w(3, 1), x(1, 1), d_x(1, 1);
  w(0, 0) = 1, w(1, 0) = 0, w(2, 0) = -1;
  x(0, 0) = 1e4f;
  const Linear<float> head({w});
  const std::vector<int> best{0}, worst{2};
  CHECK(cross_entropy<float>(head, x, best, {}).sum == 0);
  CHECK(cross_entropy<float>(head, x, worst, {}).sum == 2e4);
  cross_entropy_backward<float>(head, x, best, 1, d_x, {}, {});
  CHECK(d_x(0, 0) == 0);
  cross_entropy_backward<float>(head, x, worst, 1, d_x, {}, {});
  CHECK(d_x(0, 0) == 2);
}

TEST_CASE("a warm loss allocates nothing") {
  if (!counts_allocations()) return;
  Problem<float> p(3, 40, 8, 30);
  ThreadPool pool(2);
  const Context context{.executor = pool};
  for (int i = 0; i < 3; ++i) p.run(1, context);
  const auto before = allocation_count();
  p.run(1, context);
  CHECK(allocation_count() == before);
}

TEST_CASE("wrong targets and shapes of a loss are refused by name, and nothing is written") {
  Problem<float> p(3, 4, 8, 30);
  const Matrix<float> d_x = p.d_x;
  p.targets = {0, 29, -100, 30};
  CHECK_THROWS_WITH(p.run(1, {}),
                    "cross_entropy: target 3 must be in [0, 30) or -100 (ignored), got 30");
  p.targets = {0, -1, -100, 3};
  CHECK_THROWS_WITH(cross_entropy<float>(p.head, p.x, p.targets, {}),
                    "cross_entropy: target 1 must be in [0, 30) or -100 (ignored), got -1");
  p.targets = {0, 1, 2};
  CHECK_THROWS_WITH(p.run(1, {}), "cross_entropy: number of targets: expected 4, got 3");
  p.targets = {0, 1, 2, 3};
  CHECK_THROWS_WITH(p.run(0, {}), "cross_entropy_backward: factor must be finite and not 0, got 0");
  Matrix<float> wrong(30, 9);
  CHECK_THROWS_WITH(cross_entropy_backward<float>(p.head, p.x, p.targets, 1, wrong, p.d_w, {}),
                    "cross_entropy_backward: rows of d_x: expected 4, got 30");
  CHECK_THROWS_WITH(cross_entropy_backward<float>(p.head, p.x, p.targets, 1, p.d_x, wrong, {}),
                    "cross_entropy_backward: columns of d_weight: expected 8, got 9");
  CHECK_THROWS_WITH(cross_entropy<float>(p.head, wrong, p.targets, {}),
                    "cross_entropy: columns of x: expected 8, got 9");
  REQUIRE(same_bits(d_x.data(), p.d_x.data(), d_x.size()));
}
