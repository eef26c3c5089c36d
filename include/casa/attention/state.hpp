// The state of attention over some of the keys, and its exact merge with the state over others.
//
// A softmax over two disjoint sets of keys needs from each only (m, s, o): the largest score, the
// sum of the weights 2^(score - m), and the sum of weighted values. So cache and new tokens,
// several threads or several machines each do their part (the recurrence of Milakov & Gimelshein,
// arXiv 1805.02867).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "casa/attention/input.hpp"
#include "casa/core/context.hpp"

CASA_NAMESPACE_BEGIN

/// Scores are counted in base 2 (scale log2(e) q.k), as the kernels compute them. A row that has
/// seen no key has max = -inf, sum = 0, out = 0.
template <Scalar T>
struct AttentionState {
  Matrix<T> max;  ///< (rows, num_heads)
  Matrix<T> sum;  ///< (rows, num_heads)
  Matrix<T> out;  ///< (rows, num_heads * value_dim), not divided by sum

  /// Query rows that the state is of.
  Index num_rows() const { return max.rows(); }
};

namespace detail {

/// Gives a state the size of so many rows. It keeps its memory, whatever that holds, where it has
/// the size already; otherwise either all of it is new or, after an exception, all of it is as it
/// was.
template <Scalar T>
void resize_state(AttentionState<T>& s, Index rows, const AttentionShape& shape) {
  const Index heads = shape.num_heads, cols = checked_mul(heads, shape.output_dim(), "state");
  const auto fits = [rows](const Matrix<T>& m, Index c) {
    return m.rows() == rows && m.cols() == c;
  };
  if (fits(s.max, heads) && fits(s.sum, heads) && fits(s.out, cols)) return;
  s = AttentionState<T>{{rows, heads}, {rows, heads}, {rows, cols}};
}

}  // namespace detail

/// The state that has seen no key. Throws casa::error for a wrong shape or a negative number of
/// rows.
template <Scalar T>
AttentionState<T> empty_state(Index rows, const AttentionShape& shape) {
  detail::check_shape(shape);
  require(rows >= 0, "attention state: rows must not be negative, got ", rows);
  AttentionState<T> s;
  detail::resize_state(s, rows, shape);
  s.max.fill(-std::numeric_limits<T>::infinity());
  s.sum.fill(T(0));
  s.out.fill(T(0));
  return s;
}

namespace detail {

/// One row and head: (m, s, o) of `from` is merged into (m, s, o) of `to`.
template <Scalar T>
void merge_row(T& to_max, T& to_sum, T* to_out, T from_max, T from_sum, const T* from_out,
               Index head_dim) {
  const T none = -std::numeric_limits<T>::infinity();
  if (from_max == none && from_sum == T(0)) return;  // merging with nothing changes no bit
  if (to_max == none && to_sum == T(0)) {
    to_max = from_max;
    to_sum = from_sum;
    std::copy_n(from_out, head_dim, to_out);
    return;
  }
  const T m = (std::max)(to_max, from_max);
  const T a = std::exp2(to_max - m), b = std::exp2(from_max - m);
  to_max = m;
  to_sum = to_sum * a + from_sum * b;
  for (Index i = 0; i < head_dim; ++i) to_out[i] = to_out[i] * a + from_out[i] * b;
}

/// A sink's logit (in base 2) joins the maximum and the sum of one row and head. Returns the factor
/// that the row's weighted values get: a sink is the state (sink, 1, 0).
template <Scalar T>
T add_sink(T& max, T& sum, T sink) {
  const T none = -std::numeric_limits<T>::infinity();
  if (sink == none) return T(1);
  const T m = sink > max ? sink : max;  // NaN stays in max
  const T factor = max == none ? T(0) : std::exp2(max - m);
  sum = (max == none ? T(0) : sum * factor) + std::exp2(sink - m);
  max = m;
  return factor;
}

/// Natural log of the sum of exp(score) from a base-2 maximum and its sum.
template <Scalar T>
T log_sum_exp(T max, T sum) {
  constexpr double ln2 = 0.69314718055994530942, ln2_rest = 2.3190468138462995584e-17;
  const double x = static_cast<double>(max) + std::log2(static_cast<double>(sum));
  return static_cast<T>(std::isfinite(x) ? std::fma(x, ln2, x * ln2_rest) : x);
}

template <Scalar T>
Index checked_value_dim(const char* what, const AttentionState<T>& s) {
  require(s.max.cols() > 0, what, ": the state is empty, of no heads");
  require(s.out.cols() % s.max.cols() == 0, what,
          ": columns of the state's out must be a multiple of num_heads = ", s.max.cols(), ", got ",
          s.out.cols());
  const bool fits =
      s.sum.rows() == s.max.rows() && s.sum.cols() == s.max.cols() && s.out.rows() == s.max.rows();
  require(fits, what,
          ": max, sum and out of the state are of different rows or heads: ", s.max.rows(), " x ",
          s.max.cols(), ", ", s.sum.rows(), " x ", s.sum.cols(), ", ", s.out.rows(), " rows");
  return s.out.cols() / s.max.cols();
}

/// f(row, head) for all of a state, shared among the workers of a context in pieces of about
/// kStateValues values. No piece depends on another, so neither do results on the workers.
inline constexpr Index kStateValues = 8192;
template <Scalar T, class F>
void for_each_row_and_head(const AttentionState<T>& s, const Context& context, F f) {
  const Index heads = s.max.cols(), dim = s.out.cols() / heads;
  const auto row_and_head = [&](Index i, Index) { f(i / heads, i % heads); };
  context.executor.for_each(s.max.size(), row_and_head, kStateValues / (dim + 1) + 1);
}

}  // namespace detail

/// `to` becomes, in place, the state over both sets of keys (which must have no key in common).
/// Merging with a state that has seen nothing changes no bit. Rows and heads are shared among the
/// workers of the context; results do not depend on them. Throws casa::error if sizes do not fit.
template <Scalar T>
void merge(AttentionState<T>& to, const AttentionState<T>& from, const Context& context = {}) {
  const Index value_dim = detail::checked_value_dim("merge", to);
  require_equal("merge: value_dim", detail::checked_value_dim("merge", from), value_dim);
  require_equal("merge: rows", from.max.rows(), to.max.rows());
  require_equal("merge: num_heads", from.max.cols(), to.max.cols());
  detail::for_each_row_and_head(to, context, [&](Index r, Index h) {
    detail::merge_row((to.max)(r, h), to.sum(r, h), to.out.row(r) + h * value_dim, (from.max)(r, h),
                      from.sum(r, h), from.out.row(r) + h * value_dim, value_dim);
  });
}

/// Each row of the state gets its head's sink (num_heads logits, as in AttentionInput), which must
/// count once: give sinks either to one attend_state() of those that are merged, or to the merged
/// state by this function. Throws casa::error, before the state is touched, if sizes do not fit or
/// a sink is NaN or infinity (-infinity is no sink).
template <Scalar T>
void add_sinks(AttentionState<T>& state, std::span<const std::type_identity_t<T>> sinks) {
  constexpr double log2e = 1.44269504088896340736;
  const Index dim = detail::checked_value_dim("add_sinks", state);
  require_equal("add_sinks: sinks (one per head)", static_cast<Index>(sinks.size()),
                state.max.cols());
  detail::check_sinks<T>("add_sinks", sinks);
  for (Index r = 0; r < state.max.rows(); ++r)
    for (Index h = 0; h < state.max.cols(); ++h) {
      const auto sink =
          static_cast<T>(log2e * static_cast<double>(sinks[static_cast<std::size_t>(h)]));
      const T factor = detail::add_sink((state.max)(r, h), state.sum(r, h), sink);
      for (Index i = 0; i < dim; ++i) state.out(r, h * dim + i) *= factor;
    }
}

/// The attention output (rows, num_heads * value_dim) and, unless null, lse (rows, num_heads), the
/// natural log of the sum of exp(scale q.k). Rows that have seen no key give zeros and -inf. `out`
/// may be state.out itself, which then is the output and no longer a part of a state; any other
/// overlap is not allowed. Rows and heads are shared among the workers of the context; results do
/// not depend on them. Throws casa::error if sizes do not fit.
template <Scalar T>
void finish(const AttentionState<T>& state, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse = nullptr, const Context& context = {}) {
  const Index value_dim = detail::checked_value_dim("finish", state);
  require_equal("finish: rows of out", out.rows(), state.out.rows());
  require_equal("finish: columns of out", out.cols(), state.out.cols());
  require_memory("finish: out", out);
  detail::for_each_row_and_head(state, context, [&](Index r, Index h) {
    const T sum = state.sum(r, h);
    const T inverse = sum == T(0) ? T(0) : T(1) / sum;
    const T* from = state.out.row(r) + h * value_dim;
    T* to = out.row(r) + h * value_dim;
    for (Index i = 0; i < value_dim; ++i) to[i] = from[i] * inverse;
    if (lse) lse[r * state.max.cols() + h] = detail::log_sum_exp((state.max)(r, h), sum);
  });
}

CASA_NAMESPACE_END
