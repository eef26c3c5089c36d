#include "casa/attention/simple.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <functional>
#include <vector>

using namespace casa;

namespace {

// Softmax attention of one head with a dense mask, in double.
Eigen::MatrixXd masked(const Eigen::MatrixXd& q, const Eigen::MatrixXd& k, const Eigen::MatrixXd& v,
                       const std::function<bool(Index, Index)>& sees) {
  Eigen::MatrixXd out = Eigen::MatrixXd::Zero(q.rows(), v.cols());
  for (Index r = 0; r < q.rows(); ++r) {
    double sum = 0;
    for (Index j = 0; j < k.rows(); ++j)
      if (sees(r, j)) {
        const double w =
            std::exp(q.row(r).dot(k.row(j)) / std::sqrt(static_cast<double>(q.cols())));
        out.row(r) += w * v.row(j);
        sum += w;
      }
    if (sum > 0) out.row(r) /= sum;
  }
  return out;
}

// The largest difference; NaN if there is one.
double difference(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  double worst = 0;
  for (Index i = 0; i < a.size(); ++i) {
    const double e = std::abs(a(i % a.rows(), i / a.rows()) - b(i % a.rows(), i / a.rows()));
    if (!(e <= worst) && !std::isnan(worst)) worst = e;
  }
  return worst;
}

}  // namespace

TEST_CASE("attend on Eigen matrices: heads, intervals, scale, lse") {
  std::srand(1);
  const RowMatrix<double> q = RowMatrix<double>::Random(5, 4 * 6),
                          k = RowMatrix<double>::Random(9, 2 * 6),
                          v = RowMatrix<double>::Random(9, 2 * 6);
  const std::vector<Interval> intervals = {{0, 9}, {2, 5}, {4, 4}, {8, 9}, {0, 1}};
  std::vector<double> lse(5 * 4);
  const auto out =
      attend(q, k, v, intervals, {.num_heads = 4, .num_kv_heads = 2, .lse = lse.data()});
  for (Index h = 0; h < 4; ++h) {
    const auto expected = masked(
        q.middleCols(h * 6, 6), k.middleCols(h / 2 * 6, 6), v.middleCols(h / 2 * 6, 6),
        [&](Index r, Index j) { return intervals[static_cast<std::size_t>(r)].contains(j); });
    CHECK(difference(out.middleCols(h * 6, 6), expected) < 1e-14);
  }
  CHECK(lse[2 * 4] == -std::numeric_limits<double>::infinity());
  // A scale of one's own; rows that lie apart (a block of a wider matrix).
  const auto doubled = attend(RowMatrix<double>(2 * q), k, v, intervals,
                              {.num_heads = 4, .num_kv_heads = 2, .scale = 0.5 / std::sqrt(6.0)});
  CHECK(difference(out, doubled) < 1e-14);
  RowMatrix<double> wide(9, 30);
  wide.leftCols(12) = k;
  const auto strided =
      attend(q, wide.leftCols(12), MatrixView<const double>(wide.data(), 9, 12, 30), intervals,
             {.num_heads = 4, .num_kv_heads = 2});
  const auto plain = attend(q, k, k, intervals, {.num_heads = 4, .num_kv_heads = 2});
  CHECK(strided == plain);
}

// Fault: the heads of v are as far apart as those of k.
TEST_CASE("head-major keys and values give the bits of those that lie side by side") {
  std::srand(4);
  const Index keys = 9, heads = 2, dim = 6, value_dim = 4;
  const RowMatrix<double> q = RowMatrix<double>::Random(5, 4 * dim),
                          k = RowMatrix<double>::Random(keys, heads * dim),
                          v = RowMatrix<double>::Random(keys, heads * value_dim);
  RowMatrix<double> k_heads(heads * keys, dim), v_heads(heads * keys, value_dim);
  for (Index h = 0; h < heads; ++h) {
    k_heads.middleRows(h * keys, keys) = k.middleCols(h * dim, dim);
    v_heads.middleRows(h * keys, keys) = v.middleCols(h * value_dim, value_dim);
  }
  const std::vector<Interval> intervals = {{0, 9}, {2, 5}, {4, 4}, {8, 9}, {0, 1}};
  AttendOptions<double> options{.num_heads = 4, .num_kv_heads = 2, .value_dim = value_dim};
  AttendOptions<double> head_major = options;
  head_major.head_major = true;
  CHECK(attend(q, k_heads, v_heads, intervals, head_major) == attend(q, k, v, intervals, options));
  CHECK(varlen(q, k_heads, v_heads, {0, 2, 5}, {0, 4, 9}, true, head_major) ==
        varlen(q, k, v, {0, 2, 5}, {0, 4, 9}, true, options));
  CHECK_THROWS_AS(attend(q, k, v, intervals, head_major), error);
  CHECK_THROWS_AS(attend(q, k_heads.topRows(17), v_heads.topRows(17), intervals, head_major),
                  error);
  CHECK_THROWS_AS(varlen(q, k_heads, v_heads, {0, 5}, {0, 10}, true, head_major), error);
}

TEST_CASE("intervals and lengths in braces, spans, arrays and vectors are the same list") {
  std::srand(3);
  const RowMatrix<double> q = RowMatrix<double>::Random(2, 6), k = RowMatrix<double>::Random(9, 6),
                          v = RowMatrix<double>::Random(9, 6);
  const std::vector<Interval> list = {{0, 9}, {2, 5}};
  const std::array<Interval, 2> array = {{{0, 9}, {2, 5}}};
  const auto expected = attend(q, k, v, list);
  CHECK(difference(expected, masked(q, k, v, [&](Index r, Index j) {
                     return list[static_cast<std::size_t>(r)].contains(j);
                   })) < 1e-14);
  CHECK(attend(q, k, v, {{0, 9}, {2, 5}}) == expected);
  CHECK(attend(q, k, v, array) == expected);
  CHECK(attend(q, k, v, std::span(list)) == expected);
  CHECK(attend(q, k, v, {list.data(), 2}) == expected);
  CHECK(varlen(q, k, v, {0, 2}, {0, 9}, true) ==
        varlen(q, k, v, std::vector<std::int32_t>{0, 2}, std::array<std::int32_t, 2>{0, 9}, true));
  // One interval in braces is a list of one.
  const RowMatrix<double> first = q.topRows(1);
  CHECK(difference(attend(first, k, v, {{2, 5}}),
                   masked(first, k, v, [](Index, Index j) { return j >= 2 && j < 5; })) < 1e-14);
}

TEST_CASE("varlen is causal from the bottom right, for every pair of lengths") {
  std::srand(2);
  const RowMatrix<double> q = RowMatrix<double>::Random(60, 8),
                          k = RowMatrix<double>::Random(60, 8),
                          v = RowMatrix<double>::Random(60, 8);
  for (std::int32_t lq = 0; lq < 10; ++lq)
    for (std::int32_t lk = 0; lk < 10; ++lk)
      for (const bool causal : {false, true}) {
        CAPTURE(lq);
        CAPTURE(lk);
        // Two sequences: (3, 4) and (lq, lk).
        const std::vector<std::int32_t> cu_q = {0, 3, 3 + lq}, cu_k = {0, 4, 4 + lk};
        const auto out =
            varlen(q.topRows(3 + lq), k.topRows(4 + lk), v.topRows(4 + lk), cu_q, cu_k, causal);
        const auto expected =
            masked(q.topRows(3 + lq), k.topRows(4 + lk), v.topRows(4 + lk), [&](Index r, Index j) {
              if (r < 3) return j < 4 && (!causal || j <= r + 4 - 3);
              return j >= 4 && (!causal || (j - 4) <= (r - 3) + lk - lq);
            });
        REQUIRE(out.rows() == 3 + lq);
        if (out.size() > 0) REQUIRE(difference(out, expected) < 1e-14);
      }
}

TEST_CASE("the simple forms refuse what does not fit") {
  const RowMatrix<float> q = RowMatrix<float>::Zero(2, 8), k = RowMatrix<float>::Zero(3, 8),
                         k7 = RowMatrix<float>::Zero(3, 7), v4 = RowMatrix<float>::Zero(4, 8);
  const std::vector<Interval> two(2), outside = {{0, 3}, {0, 4}};
  CHECK_THROWS_AS(attend(q, k7, k7, two), error);
  CHECK_THROWS_AS(attend(q, k, v4, two), error);
  CHECK_THROWS_AS(attend(q, k, k, two, {.num_heads = 3}), error);
  CHECK_THROWS_AS(attend(q, k, k, two, {.num_heads = 2, .num_kv_heads = 0}), error);
  CHECK_THROWS_AS(attend(q, k, k, outside), error);
  const std::vector<std::int32_t> cu_q = {0, 2}, cu_k = {0, 3}, shorter = {0}, falling = {0, 3, 1},
                                  late = {1, 3};
  CHECK_THROWS_AS(varlen(q, k, k, cu_q, shorter, true), error);
  CHECK_THROWS_AS(varlen(q, k, k, cu_q, late, true), error);
  CHECK_THROWS_AS(varlen(q, k, k, falling, falling, true), error);
  CHECK_NOTHROW(varlen(q, k, k, cu_q, cu_k, true));
}
