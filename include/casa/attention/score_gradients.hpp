// Gradients of the parameters of score functions: slopes, tables, biases, factors. What a user's
// own score function needs to have them is written here, too.
//
// attend_backward() takes, after the score function, where the gradients of its parameters go: a
// struct G with
//
//   Index num_sums() const                          numbers that it sums over rows and keys
//   void start() const                              called first: clears what add() adds to
//   void add(const Score&, double ds, double s, const ScalarPlace& at, double* sums) const
//       called for each row, head and key that the row sees: s before the score function, ds = d
//       loss / d score(s). It adds to sums[0] .. sums[num_sums - 1], of which each worker has its
//       own; or to what no other key touches
//   void finish(const double* sums) const           called last, with all sums added
//   void check(const Score&, const AttentionShape&, Index rows, Index keys) const
//       throws casa::error where a size does not fit
//
// They are called pair by pair, at about the cost of a dot product.
#pragma once

#include <algorithm>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>

#include "casa/attention/score_slope.hpp"
#include "casa/attention/scores.hpp"

CASA_NAMESPACE_BEGIN

/// No gradients of parameters are wanted.
struct NoScoreGradients {};

/// Of Alibi's slopes.
template <Scalar G>
struct AlibiGradients {
  std::span<G> slopes;  ///< (num_heads), overwritten

  /// One for each head.
  Index num_sums() const { return std::ssize(slopes); }
  /// Nothing to clear.
  void start() const {}
  /// d slope = ds * (place of the key - place of the query).
  template <Scalar P>
  void add(const Alibi<P>& score, double ds, double, const ScalarPlace& at, double* sums) const {
    const Index distance = detail::place_of(score.key_places, at.key().value) -
                           detail::place_of(score.query_places, at.row().value);
    sums[at.head().value] += ds * static_cast<double>(distance);
  }
  /// Writes the slopes' gradients.
  void finish(const double* sums) const {
    for (std::size_t h = 0; h < slopes.size(); ++h) slopes[h] = static_cast<G>(sums[h]);
  }
  /// Throws casa::error unless there is one for each slope.
  template <Scalar P>
  void check(const Alibi<P>& score, const AttentionShape&, Index, Index) const {
    require_equal("AlibiGradients: slopes (one per head)", slopes.size(), score.slopes.size());
  }
};

/// Of RelativeBias's table.
template <Scalar G>
struct RelativeBiasGradients {
  MatrixView<G> table;  ///< (num_heads, buckets), overwritten

  /// One for each value of the table.
  Index num_sums() const { return table.rows() * table.cols(); }
  /// Nothing to clear.
  void start() const {}
  /// d table(h, bucket) = ds.
  template <Scalar P>
  void add(const RelativeBias<P>& score, double ds, double, const ScalarPlace& at,
           double* sums) const {
    const Index distance = detail::place_of(score.key_places, at.key().value) -
                           detail::place_of(score.query_places, at.row().value) + score.offset;
    sums[at.head().value * table.cols() + std::clamp<Index>(distance, 0, table.cols() - 1)] += ds;
  }
  /// Writes the table's gradients.
  void finish(const double* sums) const {
    for (Index h = 0; h < table.rows(); ++h)
      for (Index b = 0; b < table.cols(); ++b)
        table(h, b) = static_cast<G>(sums[h * table.cols() + b]);
  }
  /// Throws casa::error unless it has the table's size.
  template <Scalar P>
  void check(const RelativeBias<P>& score, const AttentionShape&, Index, Index) const {
    require_equal("RelativeBiasGradients: rows of table", table.rows(), score.table.rows());
    require_equal("RelativeBiasGradients: columns of table", table.cols(), score.table.cols());
    require_memory("RelativeBiasGradients: table", table);
  }
};

/// Of a Bias: 0 where a row does not see a key.
template <Scalar G>
struct BiasGradients {
  MatrixView<G> matrix;  ///< (heads * rows of q, keys) as in Bias, overwritten

  /// Each pair has its own place: there is nothing to sum.
  Index num_sums() const { return 0; }
  /// Zeros.
  void start() const {
    for (Index r = 0; r < matrix.rows(); ++r) std::fill_n(matrix.row(r), matrix.cols(), G(0));
  }
  /// d matrix(t, j) = ds, added up over heads that share it.
  template <Scalar P>
  void add(const Bias<P>& score, double ds, double, const ScalarPlace& at, double*) const {
    const Index step = score.heads == 1 ? 0 : matrix.rows() / score.heads;
    matrix(at.head().value * step + at.row().value, at.key().value) += static_cast<G>(ds);
  }
  /// Nothing is left to write.
  void finish(const double*) const {}
  /// Throws casa::error unless it has the bias's size.
  template <Scalar P>
  void check(const Bias<P>& score, const AttentionShape&, Index, Index) const {
    require_equal("BiasGradients: rows of matrix", matrix.rows(), score.matrix.rows());
    require_equal("BiasGradients: columns of matrix", matrix.cols(), score.matrix.cols());
    require_memory("BiasGradients: matrix", matrix);
  }
};

/// Of HeadScale's factors.
template <Scalar G>
struct HeadScaleGradients {
  std::span<G> factors;  ///< (num_heads), overwritten

  /// One for each head.
  Index num_sums() const { return std::ssize(factors); }
  /// Nothing to clear.
  void start() const {}
  /// d factor = ds * s.
  template <Scalar P>
  void add(const HeadScale<P>&, double ds, double s, const ScalarPlace& at, double* sums) const {
    sums[at.head().value] += ds * s;
  }
  /// Writes the factors' gradients.
  void finish(const double* sums) const {
    for (std::size_t h = 0; h < factors.size(); ++h) factors[h] = static_cast<G>(sums[h]);
  }
  /// Throws casa::error unless there is one for each factor.
  template <Scalar P>
  void check(const HeadScale<P>& score, const AttentionShape&, Index, Index) const {
    require_equal("HeadScaleGradients: factors (one per head)", factors.size(),
                  score.factors.size());
  }
};

/// Of the steps of Scores, in their order, NoScoreGradients for a step that has none:
/// `ScoresGradients{NoScoreGradients{}, AlibiGradients<float>{d_slopes}}`.
template <class... Steps>
class ScoresGradients {
  template <std::size_t I>
  using Step = std::tuple_element_t<I, std::tuple<Steps...>>;
  template <std::size_t I>
  static constexpr bool kWanted = !std::is_same_v<Step<I>, NoScoreGradients>;

 public:
  /// In the order of the score functions.
  explicit ScoresGradients(Steps... steps) : steps_(std::move(steps)...) {}

  /// Those of all steps, one after the other.
  Index num_sums() const {
    Index n = 0;
    for_each_wanted([&](const auto& step, auto) { n += step.num_sums(); });
    return n;
  }
  /// Starts each step.
  void start() const {
    for_each_wanted([](const auto& step, auto) { step.start(); });
  }
  /// Adds to each step what reaches it through the steps after it.
  template <class... Functions>
  void add(const Scores<Functions...>& score, double ds, double s, const ScalarPlace& at,
           double* sums) const {
    static_assert(sizeof...(Functions) == sizeof...(Steps),
                  "casa: ScoresGradients has as many steps as the Scores it belongs to");
    add_from<0>(score, ds, s, at, sums);
  }
  /// Finishes each step.
  void finish(const double* sums) const {
    for_each_wanted([&](const auto& step, auto) {
      step.finish(sums);
      sums += step.num_sums();
    });
  }
  /// Throws casa::error where those of a step do not fit.
  template <class... Functions>
  void check(const Scores<Functions...>& score, const AttentionShape& shape, Index rows,
             Index keys) const {
    for_each_wanted([&](const auto& step, auto i) {
      step.check(score.template step<decltype(i)::value>(), shape, rows, keys);
    });
  }

 private:
  /// f(step, its number as a type) for each step that has gradients.
  template <class F>
  void for_each_wanted(F f) const {
    const auto call = [&]<std::size_t I>(std::integral_constant<std::size_t, I> i) {
      if constexpr (kWanted<I>) f(std::get<I>(steps_), i);
    };
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (call(std::integral_constant<std::size_t, I>{}), ...);
    }
    (std::index_sequence_for<Steps...>{});
  }
  /// Steps I, ...: s goes in, ds is the gradient of what comes out of the last. Returns the
  /// gradient of s.
  template <std::size_t I, class Score>
  double add_from(const Score& score, double ds, double s, const ScalarPlace& at,
                  double* sums) const {
    if constexpr (I == sizeof...(Steps)) {
      return ds;
    } else {
      const auto& function = score.template step<I>();
      const detail::DualPlaces<ScalarPlace> dual(at);
      const detail::Dual<double> out = detail::apply_score(
          function, detail::Dual<double>{s, 1}, dual, detail::score_rows(function, dual));
      double* rest = sums;
      if constexpr (kWanted<I>) rest += std::get<I>(steps_).num_sums();
      const double d_out = add_from<I + 1>(score, ds, out.value, at, rest);
      if constexpr (kWanted<I>) std::get<I>(steps_).add(function, d_out, s, at, sums);
      return d_out * out.slope;
    }
  }

  std::tuple<Steps...> steps_;
};

namespace detail {

/// Whether gradients of a score function's parameters are wanted.
template <class G>
inline constexpr bool kCollects = !std::is_same_v<G, NoScoreGradients>;

/// Throws casa::error where they do not fit their score function.
template <class G, class Score, Scalar T, class S>
void check_parameters([[maybe_unused]] const G& parameters, [[maybe_unused]] const Score& score,
                      [[maybe_unused]] const AttentionInput<T, S>& in) {
  if constexpr (kCollects<G>) parameters.check(score, in.shape, in.num_rows(), in.num_keys());
}

}  // namespace detail

CASA_NAMESPACE_END
