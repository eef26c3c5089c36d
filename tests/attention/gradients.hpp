// Gradients of attention problems, and the rule by which they are accepted.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/variant.hpp"
#include "casa/attention/attend_backward.hpp"

namespace attention_test {

// Of keys and values: a row a key, heads side by side.
template <class T>
struct Gradients {
  Matrix<T> q, k, v;
  std::vector<T> sinks;
};

// out and lse as the fast path gives them, then the gradients on the path of the context.
template <class T, class S, class Score, class Parameters = NoScoreGradients>
Gradients<T> differentiate(const Variant<T, S>& p, const Matrix<T>& d_out, const Score& score,
                           const Context& context = {}, const Parameters& parameters = {}) {
  const AttentionShape& shape = p.shape;
  const VariantResult<T> forward = run(p, score);
  const Index keys = p.num_keys(), dk = shape.head_dim, dv = shape.output_dim();
  Gradients<T> g{{p.rows, shape.num_heads * dk},
                 {keys, shape.num_kv_heads * dk},
                 {keys, shape.num_kv_heads * dv},
                 std::vector<T>(p.sinks.size())};
  std::vector<KeyGradients<T>> pieces;
  Index first = 0;
  for (const Index count : p.counts) {
    pieces.push_back({.k = g.k.data() + first * g.k.cols(),
                      .v = g.v.data() + first * g.v.cols(),
                      .count = count,
                      .token_stride = g.k.cols(),
                      .head_stride = dk,
                      .value_token_stride = g.v.cols(),
                      .value_head_stride = dv});
    first += count;
  }
  attend_backward(p.input(), {forward.out, forward.lse.data(), d_out},
                  {.q = g.q, .keys = pieces, .sinks = g.sinks}, context, score, parameters);
  return g;
}

// What rounding explains of each gradient. Per row, head and key, in units of eps: a weight p is
// off by p E with E = 4 (1 + A + log n), as the score (by A), the exponential and the log-sum-exp
// are; d s = p (do . v - do . o) s'/s by as much, and by what the two dot products and o are off,
// p |do| (|v| + |o| + V (1 + A)); a slope by 8 + A. Sums add 4 times each term.
template <class T, class S>
Gradients<double> gradient_bounds(Variant<T, S>& p, const Steps& steps, const Matrix<T>& d_out) {
  const double eps = sizeof(T) == 4 ? 0x1p-23 : 2 * 0x1p-52;
  const Index d = p.shape.head_dim, dv = p.shape.output_dim(), heads = p.shape.num_heads;
  const VariantResult<double> exact = define(p, steps);
  const auto zeros = [](Index rows, Index cols) {
    Matrix<double> m(rows, cols);
    m.fill(0);
    return m;
  };
  Gradients<double> bound{zeros(p.rows, heads * d), zeros(p.num_keys(), p.shape.num_kv_heads * d),
                          zeros(p.num_keys(), p.shape.num_kv_heads * dv),
                          std::vector<double>(p.sinks.size())};
  struct Key {
    Index place;
    double score, slope, magnitude;
  };
  for (Index r = 0; r < p.rows; ++r)
    for (Index h = 0; h < heads; ++h) {
      const Index kv = h / p.shape.group();
      const double lse = exact.lse(r, h);
      if (!std::isfinite(lse)) continue;
      std::vector<Key> keys;
      double error = 0, largest_v = 0, mean = 0, mean_magnitude = 0, d_magnitude = 0;
      for (const Interval seen : p.mask.row(r))
        for (Index j = seen.begin; j < seen.end; ++j) {
          double dot = 0, magnitude = 0;
          for (Index i = 0; i < d; ++i) {
            const double x = static_cast<double>(p.q[p.size((r * heads + h) * d + i)]) *
                             static_cast<double>(widen(p.key(kv, j)[i]));
            dot += x;
            magnitude += std::abs(x);
          }
          const ScalarPlace place(r, h, j);
          error = std::max(error, steps.error(p.scale * magnitude, p.scale * dot, place));
          const auto s =
              steps(detail::Dual<double>{p.scale * dot, 1}, detail::DualPlaces<ScalarPlace>(place));
          keys.push_back({j, s.value, s.slope, magnitude});
          for (Index i = 0; i < dv; ++i)
            largest_v =
                std::max(largest_v, std::abs(static_cast<double>(widen(p.value(kv, j)[i]))));
        }
      for (Index i = 0; i < dv; ++i) {
        const double x = static_cast<double>(d_out(r, h * dv + i)), o = exact.out(r, h * dv + i);
        mean += x * o;
        mean_magnitude += std::abs(x * o);
        d_magnitude += std::abs(x);
      }
      const double n = static_cast<double>(keys.size() + (p.sinks.empty() ? 0 : 1));
      const double of_weight = 4 * (1 + error + std::log(n));
      for (const Key& key : keys) {
        const double weight = std::exp(key.score - lse);
        double dot = 0, magnitude = 0;
        for (Index i = 0; i < dv; ++i) {
          const double x = static_cast<double>(d_out(r, h * dv + i)) *
                           static_cast<double>(widen(p.value(kv, key.place)[i]));
          dot += x;
          magnitude += std::abs(x);
          bound.v(key.place, kv * dv + i) +=
              eps * weight * (of_weight + 4) * std::abs(static_cast<double>(d_out(r, h * dv + i)));
        }
        const double g = std::abs(dot - mean), slope = std::abs(key.slope);
        const double ds =
            weight * (g * (slope * (of_weight + 4) + 8 + error) +
                      slope * (magnitude + mean_magnitude + d_magnitude * largest_v * (1 + error)));
        for (Index i = 0; i < d; ++i) {
          bound.q(r, h * d + i) +=
              eps * p.scale * ds * std::abs(static_cast<double>(widen(p.key(kv, key.place)[i])));
          bound.k(key.place, kv * d + i) +=
              eps * p.scale * ds *
              std::abs(static_cast<double>(p.q[p.size((r * heads + h) * d + i)]));
        }
      }
      if (!p.sinks.empty()) {
        const double sink = static_cast<double>(p.sinks[p.size(h)]);
        bound.sinks[p.size(h)] += eps * std::exp(sink - lse) *
                                  (std::abs(mean) * (of_weight + 4 + std::abs(sink)) +
                                   mean_magnitude + d_magnitude * largest_v * (1 + error));
      }
    }
  return bound;
}

template <class T>
void check_close(const char* what, const T* got, const double* expected, const double* bound,
                 Index n) {
  double worst = 0;
  for (Index i = 0; i < n; ++i) {
    CAPTURE(what);
    CAPTURE(i);
    REQUIRE(std::isfinite(got[i]));
    const double off = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (bound[i] == 0) REQUIRE(off == 0);  // nothing was seen
    if (bound[i] > 0) worst = std::max(worst, off / bound[i]);
  }
  INFO(what, ": the worst value, as a part of its bound: ", worst);
  CHECK(worst <= 1);
}

template <class T>
void check_gradients(const Gradients<T>& got, const Gradients<double>& expected,
                     const Gradients<double>& bound) {
  const auto check_matrix = [](const char* what, const Matrix<T>& a, const Matrix<double>& b,
                               const Matrix<double>& c) {
    REQUIRE(a.rows() == b.rows());
    REQUIRE(a.cols() == b.cols());
    check_close(what, a.data(), b.data(), c.data(), a.size());
  };
  check_matrix("d_q", got.q, expected.q, bound.q);
  check_matrix("d_k", got.k, expected.k, bound.k);
  check_matrix("d_v", got.v, expected.v, bound.v);
  REQUIRE(got.sinks.size() == expected.sinks.size());
  check_close("d_sink", got.sinks.data(), expected.sinks.data(), bound.sinks.data(),
              static_cast<Index>(got.sinks.size()));
}

}  // namespace attention_test
