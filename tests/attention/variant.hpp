// Attention problems with lists of intervals, score functions, sinks and values of their own width,
// and the rule by which a result is accepted.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <variant>
#include <vector>

#include "casa/attention/attend.hpp"
#include "casa/attention/scores.hpp"

namespace attention_test {

using namespace casa;

// Score functions that are chosen while the program runs: one as a user might write it.
struct Steps {
  using Step =
      std::variant<SoftCap, Alibi<float>, RelativeBias<float>, Bias<float>, HeadScale<float>>;
  std::vector<Step> steps;

  template <class V, class At>
  V operator()(V s, const At& at) const {
    for (const Step& step : steps) s = one(step, s, at);
    return s;
  }
  template <class V, class At>
  static V one(const Step& step, V s, const At& at) {
    return std::visit(
        [&](const auto& f) { return detail::apply_score(f, s, at, detail::score_rows(f, at)); },
        step);
  }
  void check(const AttentionShape& shape, Index rows, Index keys) const {
    for (const Step& step : steps)
      std::visit([&](const auto& f) { f.check(shape, rows, keys); }, step);
  }
  // What rounding costs the score s at most, in units of eps: `before` of s itself, and the result
  // of each step once; a tanh four times (2 ulp, its argument, its factor).
  double error(double before, double s, const ScalarPlace& at) const {
    for (const Step& step : steps) {
      s = one(step, s, at);
      if (const auto* scale = std::get_if<HeadScale<float>>(&step))
        before *= std::abs(
            static_cast<double>(scale->factors[static_cast<std::size_t>(at.head().value)]));
      if (std::isfinite(s)) before += (std::holds_alternative<SoftCap>(step) ? 4 : 1) * std::abs(s);
    }
    return before;
  }
};

// A problem that owns its memory: head-major keys and values in pieces, NaN bits behind every row.
template <class T, class S = T>
struct Variant {
  AttentionShape shape;
  double scale = 1;
  Index rows = 0;
  Mask mask;
  std::vector<Index> counts;  // keys of each piece
  std::vector<T> q, sinks;
  std::vector<std::vector<S>> k, v;  // per piece: (head, token, dim + 1)
  std::vector<KeyPiece<S>> pieces;

  static std::size_t size(Index n) { return static_cast<std::size_t>(n); }

  // Memory for keys; values are set by the caller, through pieces.
  void allocate() {
    S nan;
    std::memset(&nan, 0xff, sizeof nan);
    const Index d = shape.head_dim + 1, dv = shape.output_dim() + 1;
    for (const Index n : counts) {
      k.emplace_back(size(shape.num_kv_heads * (n + 1) * d), nan);
      v.emplace_back(size(shape.num_kv_heads * (n + 1) * dv), nan);
      pieces.push_back({k.back().data(), v.back().data(), n, d, (n + 1) * d, dv, (n + 1) * dv});
    }
  }
  std::pair<std::size_t, Index> piece_of(Index place) const {
    std::size_t p = 0;
    while (place >= counts[p]) place -= counts[p++];
    return {p, place};
  }
  S* key(Index head, Index place) {
    const auto [p, t] = piece_of(place);
    return const_cast<S*>(pieces[p].key(head, t));
  }
  S* value(Index head, Index place) {
    const auto [p, t] = piece_of(place);
    return const_cast<S*>(pieces[p].value(head, t));
  }
  Index num_keys() const {
    Index n = 0;
    for (const Index c : counts) n += c;
    return n;
  }
  // Fills q, keys and values with normal numbers.
  void randomize(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
    q.resize(size(rows * shape.num_heads * shape.head_dim));
    for (T& x : q) x = T(normal(random));
    allocate();
    for (Index h = 0; h < shape.num_kv_heads; ++h)
      for (Index j = 0; j < num_keys(); ++j) {
        for (Index i = 0; i < shape.head_dim; ++i) key(h, j)[i] = narrow<S>(T(normal(random)));
        for (Index i = 0; i < shape.output_dim(); ++i)
          value(h, j)[i] = narrow<S>(T(normal(random)));
      }
  }
  AttentionInput<T, S> input() const {
    return {.shape = shape,
            .scale = scale,
            .q = {q.data(), rows, shape.num_heads * shape.head_dim},
            .keys = pieces,
            .intervals = mask.intervals,
            .interval_offsets = mask.offsets,
            .sinks = sinks};
  }
};

template <class T>
struct VariantResult {
  Matrix<T> out, lse;
};

template <class T, class S, class Score>
VariantResult<T> run(const Variant<T, S>& p, const Score& score, const Context& context = {}) {
  VariantResult<T> r{{p.rows, p.shape.num_heads * p.shape.output_dim()},
                     {p.rows, p.shape.num_heads}};
  attend(p.input(), r.out.view(), r.lse.data(), context, score);
  return r;
}

// |out - reference| <= eps V (1 + A) and |lse - reference| <= 2 eps (1 + A + log n): V the largest
// |v|, A the largest error of a score in units of eps, n the terms of the denominator. A reference
// in double has errors of its own, which count where the result is double, too.
template <class T, class S>
void check_variant(Variant<T, S>& p, const Steps& steps, const VariantResult<T>& got,
                   const VariantResult<double>& reference) {
  const double eps = sizeof(T) == 4 ? 0x1p-23 : 2 * 0x1p-52;
  const Index d = p.shape.head_dim, dv = p.shape.output_dim();
  for (Index r = 0; r < p.rows; ++r)
    for (Index h = 0; h < p.shape.num_heads; ++h) {
      CAPTURE(r);
      CAPTURE(h);
      double largest_v = 0, error = 0, terms = 0;
      for (const Interval seen : p.mask.row(r))
        for (Index j = seen.begin; j < seen.end; ++j, ++terms) {
          double dot = 0, magnitude = 0;
          for (Index i = 0; i < d; ++i) {
            const double product =
                static_cast<double>(p.q[p.size((r * p.shape.num_heads + h) * d + i)]) *
                static_cast<double>(widen(p.key(h / p.shape.group(), j)[i]));
            dot += product;
            magnitude += std::abs(product);
          }
          error = std::max(error, steps.error(p.scale * magnitude, p.scale * dot, {r, h, j}));
          for (Index i = 0; i < dv; ++i)
            largest_v =
                std::max(largest_v,
                         std::abs(static_cast<double>(widen(p.value(h / p.shape.group(), j)[i]))));
        }
      if (!p.sinks.empty()) {
        error = std::max(error, std::abs(static_cast<double>(p.sinks[p.size(h)])));
        ++terms;
      }
      const double lse = static_cast<double>(got.lse(r, h)), expected = reference.lse(r, h);
      if (std::isinf(expected)) {
        REQUIRE(lse == expected);
      } else {
        REQUIRE(std::isfinite(lse));
        REQUIRE(std::abs(lse - expected) <= 2 * eps * (1 + error + std::log(terms)));
      }
      for (Index i = 0; i < dv; ++i) {
        const double x = static_cast<double>(got.out(r, h * dv + i));
        REQUIRE(std::isfinite(x));
        REQUIRE(std::abs(x - reference.out(r, h * dv + i)) <= eps * largest_v * (1 + error));
      }
    }
}

// The same problem in double.
template <class T, class S>
Variant<double> in_double(Variant<T, S>& p) {
  Variant<double> exact;
  exact.shape = p.shape;
  exact.scale = p.scale;
  exact.rows = p.rows;
  exact.mask = p.mask;
  exact.counts = p.counts;
  exact.q.assign(p.q.begin(), p.q.end());
  exact.sinks.assign(p.sinks.begin(), p.sinks.end());
  exact.allocate();
  for (Index h = 0; h < p.shape.num_kv_heads; ++h)
    for (Index j = 0; j < p.num_keys(); ++j) {
      std::transform(p.key(h, j), p.key(h, j) + p.shape.head_dim, exact.key(h, j),
                     [](S x) { return static_cast<double>(widen(x)); });
      std::transform(p.value(h, j), p.value(h, j) + p.shape.output_dim(), exact.value(h, j),
                     [](S x) { return static_cast<double>(widen(x)); });
    }
  return exact;
}

// The definition in double of what T and S hold.
template <class T, class S>
VariantResult<double> define(Variant<T, S>& p, const Steps& steps) {
  Context naive_path;
  naive_path.path = Path::naive;
  return run(in_double(p), steps, naive_path);
}

// Lists of about `most` intervals a row; neighbouring rows see much the same, as in most masks,
// every seventh something else, and some nothing.
inline Mask random_mask(Index rows, Index keys, Index most, std::mt19937& random) {
  const auto below = [&](Index n) {
    return static_cast<Index>(random() % static_cast<unsigned>(std::max<Index>(n, 1)));
  };
  Mask mask;
  std::vector<Index> ends;
  for (Index r = 0; r < rows; ++r) {
    if (r == 0 || random() % 7 == 0) {
      ends.clear();
      for (Index i = below(2 * most + 1) / 2 * 2; i > 0; --i) ends.push_back(below(keys + 1));
      std::sort(ends.begin(), ends.end());
    }
    for (std::size_t i = 0; i + 1 < ends.size(); i += 2) {
      // One end moves a little.
      const Index end = std::min<Index>(keys, ends[i + 1] + below(2));
      const Index limit = i + 2 < ends.size() ? ends[i + 2] : keys;
      const Interval interval{ends[i], std::min(end, limit)};
      if (interval.size() > 0) mask.intervals.push_back(interval);
    }
    mask.offsets.push_back(static_cast<Index>(mask.intervals.size()));
  }
  return mask;
}

}  // namespace attention_test
