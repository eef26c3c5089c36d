// Attention problems that own their memory, the definition in double, and the acceptance rule
// |o - ref| <= eps V (1 + A), |lse - ref| <= 2 eps (1 + A + log n), finiteness first.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <vector>

#include "casa/attention/attend.hpp"
#include "support/random_matrix.hpp"

namespace attention_test {

using namespace casa;

inline constexpr double kNone = -std::numeric_limits<double>::infinity();

// A problem that owns its memory: head-major keys in pieces, everything else NaN bits.
template <class T, class S = T>
struct Problem {
  AttentionShape shape;
  double scale = 1;
  Index rows = 0;
  std::vector<Index> piece_counts;
  std::vector<Interval> intervals;
  std::vector<T> q;
  std::vector<std::vector<S>> k, v;  // per piece, (head, token, head_dim), padding behind each row
  Index padding = 0;
  std::vector<KeyPiece<S>> pieces;

  Problem(AttentionShape shape_, Index rows_, std::vector<Index> counts, unsigned seed,
          double score_scale = 1, Index padding_ = 0)
      : shape(shape_), rows(rows_), piece_counts(std::move(counts)), padding(padding_) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const Index d = shape.head_dim;
    scale = score_scale / std::sqrt(static_cast<double>(d));
    q.resize(size(rows * shape.num_heads * d));
    for (T& x : q) x = T(normal(random));
    for (const Index count : piece_counts) {
      S nan;
      std::memset(&nan, 0xff, sizeof nan);
      const Index stride = d + padding;
      k.emplace_back(size(shape.num_kv_heads * (count + 1) * stride), nan);
      v.emplace_back(k.back());
      for (Index h = 0; h < shape.num_kv_heads; ++h)
        for (Index t = 0; t < count; ++t)
          for (Index i = 0; i < d; ++i) {
            k.back()[size((h * (count + 1) + t) * stride + i)] = narrow<S>(T(normal(random)));
            v.back()[size((h * (count + 1) + t) * stride + i)] = narrow<S>(T(normal(random)));
          }
      pieces.push_back({k.back().data(), v.back().data(), count, stride, (count + 1) * stride});
    }
    intervals.assign(size(rows), Interval{0, num_keys()});
  }

  static std::size_t size(Index n) { return static_cast<std::size_t>(n); }
  Index num_keys() const {
    Index n = 0;
    for (const Index c : piece_counts) n += c;
    return n;
  }
  S* at(std::vector<std::vector<S>>& m, Index place, Index head) {
    std::size_t p = 0;
    while (place >= piece_counts[p]) place -= piece_counts[p++];
    const Index stride = shape.head_dim + padding;
    return m[p].data() + (head * (piece_counts[p] + 1) + place) * stride;
  }
  S* key(Index place, Index head) { return at(k, place, head); }
  S* value(Index place, Index head) { return at(v, place, head); }
  AttentionInput<T, S> input() const {
    return {shape, scale, {q.data(), rows, shape.num_heads * shape.head_dim}, pieces, intervals};
  }
};

template <class T>
struct Result {
  Matrix<T> out;
  std::vector<T> lse;
};

template <class T, class S>
Result<T> run(const Problem<T, S>& p, const Context& context = {}) {
  Result<T> r{{p.rows, p.shape.num_heads * p.shape.head_dim},
              std::vector<T>(Problem<T, S>::size(p.rows * p.shape.num_heads))};
  attend(p.input(), r.out.view(), r.lse.data(), context);
  return r;
}

// A query's value as the kernel multiplies it: scaled for powers of 2 and rounded, if it may be.
template <class T>
auto query_as(T x, double scale, Precision precision) {
  using Real = std::conditional_t<sizeof(T) == 4, double, long double>;
  if (precision == Precision::full) return static_cast<Real>(x);
  const T scaled = detail::Scaling<T>(scale)(simd::broadcast(x))[0];
  const bfloat16 rounded = narrow<bfloat16>(scaled);
  return static_cast<Real>(widen(rounded)) * std::numbers::ln2_v<Real> / static_cast<Real>(scale);
}

// The definition for each row and head, with the right sides of the acceptance rule.
struct Reference {
  struct Row {
    std::vector<double> out;
    double lse = kNone, out_bound = 0, lse_bound = 0;
  };
  std::vector<Row> rows;  // (row, head)
};

template <class T, class S>
Reference define(Problem<T, S>& p, Precision precision = Precision::full) {
  using Real = std::conditional_t<sizeof(T) == 4, double, long double>;
  const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
  const Index d = p.shape.head_dim;
  Reference reference;
  for (Index r = 0; r < p.rows; ++r)
    for (Index h = 0; h < p.shape.num_heads; ++h) {
      Reference::Row row;
      row.out.assign(static_cast<std::size_t>(d), 0.0);
      const Interval seen = p.intervals[static_cast<std::size_t>(r)];
      std::vector<Real> score, sums(static_cast<std::size_t>(d));
      Real max = -std::numeric_limits<Real>::infinity(), sum = 0;
      double magnitude = 0, largest_v = 0;
      std::vector<Real> q;
      for (Index i = 0; i < d; ++i)
        q.push_back(query_as(p.q[p.size((r * p.shape.num_heads + h) * d + i)], p.scale, precision));
      for (Index j = seen.begin; j < seen.end; ++j) {
        Real dot = 0, absolute = 0;
        const S* key = p.key(j, h / p.shape.group());
        for (Index i = 0; i < d; ++i) {
          const Real product = q[p.size(i)] * static_cast<Real>(widen(key[i]));
          dot += product;
          absolute += std::abs(product);
        }
        score.push_back(static_cast<Real>(p.scale) * dot);
        magnitude = std::max(magnitude, std::abs(p.scale) * static_cast<double>(absolute));
        max = std::max(max, score.back());
      }
      for (Index j = seen.begin; j < seen.end; ++j) {
        const Real w = std::exp(score[static_cast<std::size_t>(j - seen.begin)] - max);
        const S* value = p.value(j, h / p.shape.group());
        sum += w;
        for (Index i = 0; i < d; ++i) {
          const auto x = static_cast<double>(widen(value[i]));
          sums[static_cast<std::size_t>(i)] += w * static_cast<Real>(x);
          largest_v = std::max(largest_v, std::abs(x));
        }
      }
      if (seen.size() > 0) {
        row.out_bound = eps * largest_v * (1 + magnitude);
        row.lse_bound = 2 * eps * (1 + magnitude + std::log(static_cast<double>(seen.size())));
        row.lse = static_cast<double>(max + std::log(sum));
        for (std::size_t i = 0; i < row.out.size(); ++i)
          row.out[i] = static_cast<double>(sums[i] / sum);
        if (precision == Precision::storage) {
          // Each weight is off by 2^-8 at most, in the sums of weights as in those of values:
          // |o' - o| <= u sum_j p_j |v_j - o| / (1 - u).
          const double u = 0x1p-8;
          std::vector<double> spread(p.size(d));
          for (Index j = seen.begin; j < seen.end; ++j)
            for (Index i = 0; i < d; ++i)
              spread[p.size(i)] +=
                  static_cast<double>(std::exp(score[p.size(j - seen.begin)] - max) / sum) *
                  std::abs(static_cast<double>(widen(p.value(j, h / p.shape.group())[i])) -
                           row.out[p.size(i)]);
          row.out_bound += u / (1 - u) * *std::max_element(spread.begin(), spread.end());
          row.lse_bound += u / (1 - u);
        }
      }
      reference.rows.push_back(std::move(row));
    }
  return reference;
}

template <class T, class S>
void check_result(const Problem<T, S>& p, const Result<T>& got, const Reference& reference) {
  const Index d = p.shape.head_dim;
  for (Index r = 0; r < p.rows; ++r)
    for (Index h = 0; h < p.shape.num_heads; ++h) {
      CAPTURE(r);
      CAPTURE(h);
      const auto index = static_cast<std::size_t>(r * p.shape.num_heads + h);
      const auto& row = reference.rows[index];
      const auto lse = static_cast<double>(got.lse[index]);
      if (row.lse == kNone) {
        REQUIRE(lse == kNone);
      } else {
        REQUIRE(std::isfinite(lse));
        REQUIRE(std::abs(lse - row.lse) <= row.lse_bound);
      }
      double worst = 0;
      bool finite = true;
      for (Index i = 0; i < d; ++i) {
        const auto x = static_cast<double>(got.out(r, h * d + i));
        finite = finite && std::isfinite(x);
        worst = std::max(worst, std::abs(x - row.out[static_cast<std::size_t>(i)]));
      }
      REQUIRE(finite);
      REQUIRE(worst <= row.out_bound);  // 0 where nothing is seen
    }
}

template <class T, class S>
void check_both_paths(Problem<T, S>& p) {
  const Reference reference = define(p);
  Context naive_path;
  naive_path.path = Path::naive;
  {
    INFO("path: naive");
    check_result(p, run(p, naive_path), reference);
  }
  INFO("path: fast");
  check_result(p, run(p), reference);
}

template <class T>
bool same_bits(const Result<T>& a, const Result<T>& b) {
  return casa_test::same_bits(a.out, b.out) && a.lse.size() == b.lse.size() &&
         casa_test::same_bits(a.lse.data(), b.lse.data(), static_cast<Index>(a.lse.size()));
}

// A key that every query of its group finds by far the best, with a value that cannot be
// overlooked.
template <class T, class S>
void make_needle(Problem<T, S>& p, Index place, Index row) {
  for (Index g = 0; g < p.shape.num_kv_heads; ++g)
    for (Index i = 0; i < p.shape.head_dim; ++i) {
      const T x = p.q[static_cast<std::size_t>(
          (row * p.shape.num_heads + g * p.shape.group()) * p.shape.head_dim + i)];
      p.key(place, g)[i] = narrow<S>(T(4) * x);
      p.value(place, g)[i] = narrow<S>(widen(p.value(place, g)[i]) + T(64));
    }
}

inline std::vector<Interval> causal_intervals(Index rows, Index keys) {
  std::vector<Interval> v;
  for (Index r = 0; r < rows; ++r) v.push_back({0, std::max<Index>(0, keys - rows + r + 1)});
  return v;
}

inline std::vector<Interval> random_intervals(Index rows, Index keys, std::mt19937& random) {
  std::vector<Interval> v;
  for (Index r = 0; r < rows; ++r) {
    const Index a = static_cast<Index>(random() % static_cast<unsigned>(keys + 1));
    const Index b = static_cast<Index>(random() % static_cast<unsigned>(keys + 1));
    v.push_back(random() % 8 == 0 ? Interval{b, b} : Interval{std::min(a, b), std::max(a, b)});
  }
  return v;
}

}  // namespace attention_test
