// Makes a problem of attention runnable: random inputs, the library's attention on them, and the
// definition to compare it with.
#pragma once

#include <cmath>
#include <limits>
#include <memory>

#include "../bench_common.hpp"
#include "../problem_files.hpp"
#include "casa/attention/attend.hpp"
#include "casa/attention/scores.hpp"
#include "variant.hpp"

namespace bench {

/// Inputs and output of one problem. Queries are float, rows x (heads * head_dim); keys and values
/// S, kv heads x keys x head_dim (of values: value_dim).
template <class S, class Score>
class ScoredProblem {
 public:
  ScoredProblem(Attention problem, Score score)
      : a_(std::move(problem)),
        score_(std::move(score)),
        q_(random_values<float>(a_.rows() * a_.num_heads * a_.head_dim, 1)),
        k_(random_values<S>(a_.keys * a_.num_kv_heads * a_.head_dim, 2)),
        v_(random_values<S>(a_.keys * a_.num_kv_heads * a_.value_dim, 3)),
        out_(a_.rows() * a_.num_heads * a_.value_dim),
        piece_{.k = k_.data(),
               .v = v_.data(),
               .count = a_.keys,
               .token_stride = a_.head_dim,
               .head_stride = a_.keys * a_.head_dim,
               .value_token_stride = a_.value_dim,
               .value_head_stride = a_.keys * a_.value_dim} {}

  void run(const casa::Context& context) {
    casa::attend(input(a_.mask), output(out_), nullptr, context, score_);
  }

  /// See Runnable. The definition is computed in double. Rows that are not compared see nothing
  /// there, so that the others keep their numbers, which a score function may depend on.
  double largest_error() const {
    constexpr double most_operations = 2e8;
    double operations = 0;
    for (const Interval seen : a_.mask.intervals) operations += static_cast<double>(seen.size());
    operations *= 2.0 * static_cast<double>(a_.num_heads * (a_.head_dim + a_.value_dim));
    const Index step = 1 + static_cast<Index>(operations / most_operations);
    casa::Mask chosen;
    for (Index r = 0; r < a_.rows(); ++r) {
      const bool compare = (a_.rows() - 1 - r) % step == 0;
      std::vector<Interval> seen;
      for (const Interval i : a_.mask.row(r))
        if (compare && i.size() > 0) seen.push_back(i);
      chosen.add_row(seen);
    }
    casa::Buffer<float> exact(out_.size());
    casa::naive::attend(input(chosen), output(exact), nullptr, {}, score_);
    const Index columns = a_.num_heads * a_.value_dim;
    double largest = 0;
    for (Index r = (a_.rows() - 1) % step; r < a_.rows(); r += step)
      for (Index i = r * columns; i < (r + 1) * columns; ++i) {
        const double difference = std::abs(static_cast<double>(out_[i] - exact[i]));
        if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
        largest = (std::max)(largest, difference);
      }
    return largest;
  }

  /// eps * largest value * (1 + largest magnitude of a score), where a score's magnitude is that of
  /// its terms, bounded by the lengths of query and key. A score is a sum whose rounding grows with
  /// its magnitude; a weight is off by as much, relatively, and an output by as much of the largest
  /// value. Rounding queries and weights to bfloat16 adds 2^-8, twice (2^-9 each, of either).
  double error_bound() const {
    const double scale = casa::default_scale(a_.head_dim);
    double v = 0;
    for (const S x : v_.span()) v = (std::max)(v, std::abs(static_cast<double>(casa::widen(x))));
    const double magnitude = scale * longest(q_, a_.head_dim) * longest(k_, a_.head_dim);
    const bool rounds = a_.precision == casa::Precision::storage && sizeof(S) == 2;
    return (0x1p-23 + (rounds ? 0x1p-7 : 0)) * v * (1 + magnitude + a_.added_score);
  }

  void write(const std::string& folder, const std::string& name) const {
    const ProblemFiles files(folder, name);
    files.write("q", q_.span());
    files.write("k", k_.span());
    files.write("v", v_.span());
    files.write("out", out_.span());
    files.write(a_.mask);
  }

 private:
  casa::AttentionInput<float, S> input(const casa::MaskView& mask) const {
    return {.shape = {a_.num_heads, a_.num_kv_heads, a_.head_dim, a_.value_dim},
            .scale = casa::default_scale(a_.head_dim),
            .q = {q_.data(), a_.rows(), a_.num_heads * a_.head_dim},
            .keys = {&piece_, 1},
            .intervals = mask.intervals,
            .interval_offsets = mask.offsets,
            .sinks = a_.sinks};
  }
  casa::MatrixView<float> output(casa::Buffer<float>& memory) const {
    return {memory.data(), a_.rows(), a_.num_heads * a_.value_dim};
  }
  /// The largest Euclidean length of the vectors of n values that stand side by side.
  template <class X>
  static double longest(const casa::Buffer<X>& values, Index n) {
    double most = 0;
    for (Index begin = 0; begin < values.size(); begin += n) {
      double sum = 0;
      for (Index i = begin; i < begin + n; ++i) {
        const double x = static_cast<double>(casa::widen(values[i]));
        sum += x * x;
      }
      most = (std::max)(most, sum);
    }
    return std::sqrt(most);
  }

  Attention a_;
  Score score_;
  casa::Buffer<float> q_;
  casa::Buffer<S> k_, v_;
  casa::Buffer<float> out_;
  casa::KeyPiece<S> piece_;
};

/// The problem with a score function, on random queries, keys and values stored as S.
template <class Score, class S = float>
Runnable scored(Attention problem, const Score& score) {
  problem.mask.compact();  // (where no maker made it)
  const auto p = std::make_shared<ScoredProblem<S, Score>>(problem, score);
  return {
      .problem = problem,
      .value_bytes = static_cast<Index>(sizeof(S)),
      .run = [p](const casa::Context& context) { p->run(context); },
      .largest_error = [p] { return p->largest_error(); },
      .error_bound = p->error_bound(),
      .write = [p](const std::string& folder, const std::string& name) { p->write(folder, name); }};
}

}  // namespace bench
