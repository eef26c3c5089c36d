// attention_weights() against the definition: shapes, types, pieces, edges, refusals.
#include "casa/attention/attention_weights.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "attention/problem.hpp"
#include "attention/variant.hpp"
#include "support/messages.hpp"

using namespace casa;
using namespace attention_test;

namespace {

// Weights of one row and head by their definition, and how far the logarithm of one may be off
// from it. With e the unit of the accumulation and u that of double, a weight exp(s - lse) is off
// by lse (2 e (1 + A + log n), the bound that attend() holds), by its score (d / 8 + 6 roundings in
// double of at most A), by the difference and its exponential, and by rounding to T.
template <class T>
struct RowReference {
  std::vector<double> weight, bound;
  double sum_bound = 0;
};

template <class T, class S>
RowReference<T> define_row(Problem<T, S>& p, Index r, Index head) {
  using Real = std::conditional_t<sizeof(T) == 4, double, long double>;
  const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52, u = 0x1p-53;
  const Index d = p.shape.head_dim;
  const Interval seen = p.intervals[p.size(r)];
  RowReference<T> reference;
  reference.weight.assign(p.size(p.num_keys()), 0.0);
  reference.bound = reference.weight;
  if (seen.size() == 0) return reference;
  std::vector<Real> score;
  Real max = -std::numeric_limits<Real>::infinity(), sum = 0;
  double magnitude = 0;
  for (Index j = seen.begin; j < seen.end; ++j) {
    Real dot = 0, absolute = 0;
    for (Index i = 0; i < d; ++i) {
      const Real product = static_cast<Real>(p.q[p.size((r * p.shape.num_heads + head) * d + i)]) *
                           static_cast<Real>(widen(p.key(j, head / p.shape.group())[i]));
      dot += product;
      absolute += std::abs(product);
    }
    score.push_back(static_cast<Real>(p.scale) * dot);
    magnitude = std::max(magnitude, p.scale * static_cast<double>(absolute));
    max = std::max(max, score.back());
  }
  for (const Real s : score) sum += std::exp(s - max);
  const double n = static_cast<double>(seen.size());
  for (Index j = seen.begin; j < seen.end; ++j) {
    const Real s = score[p.size(j - seen.begin)];
    const auto log_weight = static_cast<double>(s - max - std::log(sum));
    const double off = 2 * eps * (1 + magnitude + std::log(n)) +
                       u * (static_cast<double>(d) / 8 + 6) * magnitude +
                       4 * u * (1 + std::abs(log_weight)) + eps / 2;
    reference.weight[p.size(j)] = static_cast<double>(std::exp(s - max) / sum);
    reference.bound[p.size(j)] = reference.weight[p.size(j)] * std::expm1(off) +
                                 static_cast<double>(std::numeric_limits<T>::denorm_min());
    reference.sum_bound += reference.bound[p.size(j)];
  }
  return reference;
}

template <class T, class S>
void check_weights(Problem<T, S>& p, const std::vector<Index>& heads) {
  const Result<T> attended = run(p);
  const auto rows = p.rows * static_cast<Index>(heads.size());
  Matrix<T> fast(rows, p.num_keys()), naive(rows, p.num_keys());
  attention_weights(p.input(), heads, attended.lse, fast.view());
  naive::attention_weights(p.input(), heads, naive.view());
  for (Index r = 0; r < p.rows; ++r)
    for (std::size_t i = 0; i < heads.size(); ++i) {
      CAPTURE(r);
      CAPTURE(heads[i]);
      const RowReference<T> reference = define_row(p, r, heads[i]);
      for (const Matrix<T>* weights : {&fast, &naive}) {
        const T* row = weights->row(r * static_cast<Index>(heads.size()) + static_cast<Index>(i));
        double sum = 0, worst = 0;
        bool finite = true;
        for (Index j = 0; j < p.num_keys(); ++j) {
          const auto w = static_cast<double>(row[j]);
          finite = finite && std::isfinite(w);
          worst = std::max(worst,
                           std::abs(w - reference.weight[p.size(j)]) - reference.bound[p.size(j)]);
          sum += w;
        }
        REQUIRE(finite);
        REQUIRE(worst <= 0);
        const bool sees = p.intervals[p.size(r)].size() > 0;
        REQUIRE(std::abs(sum - (sees ? 1 : 0)) <= reference.sum_bound);
      }
    }
}

}  // namespace

TEST_CASE_TEMPLATE("weights of every type, head_dim and group, over keys in several pieces", P,
                   Problem<float>, Problem<double>, Problem<float, bfloat16>,
                   Problem<float, half>) {
  std::mt19937 random(1);
  for (const Index d : {1, 2, 5, 8, 24, 33, 64, 128})
    for (const Index group : {1, 2, 3}) {
      CAPTURE(d);
      CAPTURE(group);
      P p({2 * group, 2, d}, 9, {0, 17, 1, 30}, static_cast<unsigned>(10 * d + group), 1, d % 3);
      p.intervals = random_intervals(9, 48, random);
      check_weights(p, {2 * group - 1, 0});
    }
}

TEST_CASE_TEMPLATE("weights of sharp rows, of a needle, and of long rows", T, float, double) {
  for (const double score_scale : {0.01, 1.0, 30.0, 300.0}) {
    CAPTURE(score_scale);
    Problem<T> p({2, 1, 40}, 5, {70, 9}, 3, score_scale);
    p.intervals = causal_intervals(5, 79);
    make_needle(p, 71, 2);
    check_weights(p, {0, 1});
  }
  Problem<T> long_row({1, 1, 8}, 1, {9000, 11}, 4);  // attend() splits it and merges the parts
  check_weights(long_row, {0});
}

TEST_CASE("a row that sees nothing weighs nothing, and what it does not see is never read") {
  // Memory beside the keys is NaN; here the keys outside the interval are, too.
  Problem<float> p({2, 2, 16}, 3, {6, 6}, 5);
  p.intervals = {Interval{}, {4, 8}, {9, 9}};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Index place : {0, 3, 8, 11})
    for (const Index head : {0, 1}) std::fill_n(p.key(place, head), 16, nan);
  const auto attended = run(p);
  Matrix<float> weights(6, 12);
  attention_weights(p.input(), {0, 1}, attended.lse, weights.view());
  for (Index row = 0; row < 6; ++row)
    for (Index j = 0; j < 12; ++j) {
      const bool sees = (row == 2 || row == 3) && j >= 4 && j < 8;
      CHECK((weights(row, j) > 0) == sees);
      CHECK((weights(row, j) == 0) == !sees);
    }
}

TEST_CASE_TEMPLATE("masks of lists, score functions and sinks", T, float, double) {
  const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
  const std::vector<float> slopes{0.5f, 0.25f, -0.125f, 0.0f};
  for (unsigned seed = 1; seed <= 6; ++seed) {
    CAPTURE(seed);
    Variant<T> p;
    p.shape = {4, 2, 24, 8};
    p.counts = {7, 0, 12, 20};
    p.rows = 5;
    p.mask.add_row({{0, 3}, {5, 9}, {9, 10}, {30, 39}});
    p.mask.add_row({});
    p.mask.add_row({{6, 8}});
    p.mask.add_row({{0, 1}, {2, 3}, {4, 5}, {18, 20}});
    p.mask.add_row({{0, 39}});
    p.randomize(seed);
    if (seed % 2 == 0) p.sinks = {T(0.5), T(-1), T(3), -std::numeric_limits<T>::infinity()};
    AttentionInput<T, T> input = p.input();
    input.sinks = p.sinks;
    const std::vector<Index> heads{3, 0, 1};
    const auto check = [&](const auto& score) {
      Matrix<T> out(5, 4 * 8), fast(15, 39), naive(15, 39);
      std::vector<T> lse(20);
      attend(input, out.view(), lse.data(), Context{}, score);
      attention_weights(input, heads, lse, fast.view(), score);
      naive::attention_weights(input, heads, naive.view(), score);
      for (Index r = 0; r < 5; ++r)
        for (Index i = 0; i < 3; ++i) {
          const Index head = heads[p.size(i)];
          double left = p.sinks.empty() || !std::isfinite(p.sinks[p.size(head)])
                            ? 0
                            : std::exp(static_cast<double>(p.sinks[p.size(head)]) -
                                       static_cast<double>(lse[p.size(r * 4 + head)]));
          double sum = 0, worst = 0;
          for (Index j = 0; j < 39; ++j) {
            const auto w = static_cast<double>(fast(r * 3 + i, j));
            REQUIRE(std::isfinite(w));
            // |q|, |k| below 40, so A < 40; a slope adds less than 20 to scores and lse.
            const double n = static_cast<double>(naive(r * 3 + i, j));
            worst = std::max(worst, std::abs(w - n) - n * 2 * eps * (1 + 60 + std::log(39)));
            sum += w;
          }
          CHECK(worst <= 0);
          if (r == 1) left = 1;  // sees no key
          CHECK(std::abs(sum + left - 1) <= 2 * eps * (1 + 60 + std::log(39)));
        }
      // Weights times values are what attend() gave.
      for (Index r = 0; r < 5; ++r)
        for (Index i = 0; i < 8; ++i) {
          double sum = 0;
          for (Index j = 0; j < 39; ++j)
            sum += static_cast<double>(fast(r * 3 + 2, j)) * static_cast<double>(p.value(0, j)[i]);
          CHECK(std::abs(sum - static_cast<double>(out(r, 8 + i))) <= 4 * 2 * eps * 65);
        }
    };
    check(PlainScore{});
    check(SoftCap{3});
    check(Alibi<float>{slopes});
  }
}

TEST_CASE("scores that overflow weigh what attend() makes of them: nothing, or NaN") {
  Problem<float> p({1, 1, 8}, 2, {3}, 9);
  std::fill_n(p.q.data(), 8, 1e30f);       // row 0: every score overflows to -inf
  std::fill_n(p.q.data() + 8, 8, -1e30f);  // row 1: to +inf
  for (const Index j : {0, 1, 2}) std::fill_n(p.key(j, 0), 8, -1e30f);
  const auto attended = run(p);
  REQUIRE(attended.out(0, 0) == 0);
  REQUIRE(std::isnan(attended.out(1, 0)));
  Matrix<float> weights(2, 3);
  attention_weights(p.input(), {0}, attended.lse, weights.view());
  for (const Index j : {0, 1, 2}) {
    CHECK(weights(0, j) == 0);
    CHECK(std::isnan(weights(1, j)));
  }
}

TEST_CASE("values are not read") {
  Problem<float> p({2, 1, 8}, 2, {5, 4}, 6);
  const auto attended = run(p);
  Matrix<float> with(4, 9), without(4, 9);
  attention_weights(p.input(), {0, 1}, attended.lse, with.view());
  for (auto& piece : p.pieces) piece.v = nullptr;
  attention_weights(p.input(), {0, 1}, attended.lse, without.view());
  CHECK(with.eigen() == without.eigen());
}

TEST_CASE("weights times values are the output of attention") {
  Problem<double> p({4, 2, 16}, 6, {20, 13}, 7);
  p.intervals = causal_intervals(6, 33);
  const auto attended = run(p);
  Matrix<double> weights(6 * 4, 33);
  attention_weights(p.input(), {0, 1, 2, 3}, attended.lse, weights.view());
  for (Index r = 0; r < 6; ++r)
    for (Index h = 0; h < 4; ++h)
      for (Index i = 0; i < 16; ++i) {
        double sum = 0;
        for (Index j = 0; j < 33; ++j)
          sum +=
              weights(r * 4 + h, j) * (j < p.intervals[p.size(r)].end ? p.value(j, h / 2)[i] : 0);
        CHECK(std::abs(sum - attended.out(r, h * 16 + i)) <= 1e-13);
      }
}

TEST_CASE("what does not fit is refused before anything is written") {
  Problem<float> p({2, 1, 8}, 2, {5}, 8);
  const auto attended = run(p);
  Matrix<float> weights(4, 5);
  weights.fill(7);
  const std::span<const float> lse(attended.lse);
  const auto input = p.input();
  CHECK(has(message_of([&] {
              attention_weights(input, {0, 2}, lse, weights.view());
            }),
            "heads[1] must be in [0, 2), got 2"));
  CHECK(has(message_of([&] {
              attention_weights(input, {-1, 1}, lse, weights.view());
            }),
            "heads[0] must be in [0, 2), got -1"));
  CHECK(has(message_of([&] {
              attention_weights(input, {0, 1}, lse.first(3), weights.view());
            }),
            "values of lse (rows * num_heads): expected 4, got 3"));
  CHECK(has(message_of([&] { attention_weights(input, {0}, lse, weights.view()); }),
            "rows of weights (rows * heads): expected 2, got 4"));
  Matrix<float> narrow_matrix(4, 4);
  CHECK(has(message_of([&] {
              attention_weights(input, {0, 1}, lse, narrow_matrix.view());
            }),
            "columns of weights (keys): expected 5, got 4"));
  p.intervals[1].end = 6;
  CHECK(has(message_of([&] {
              attention_weights(p.input(), {0, 1}, lse, weights.view());
            }),
            "intervals[1] must lie within [0, 5), got [0, 6)"));
  CHECK((weights.eigen().array() == 7).all());
}
