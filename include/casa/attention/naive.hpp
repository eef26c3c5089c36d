// Attention by its definition, one row and head after the other, computed in double.
//
// Sums are added in blocks: one long chain would round more than the tests allow in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "casa/attention/score_place.hpp"
#include "casa/attention/state.hpp"
#include "casa/core/context.hpp"

CASA_NAMESPACE_BEGIN

namespace naive {

namespace detail {

/// The dot product of n values, in double, as the sum of its halves' sums.
template <class T, class S>
double dot(const T* a, const S* b, Index n) {
  if (n > 8) return dot(a, b, n / 2) + dot(a + n / 2, b + n / 2, n - n / 2);
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(widen(b[i]));
  return sum;
}

/// Weights and weighted values are summed over blocks of this many keys; then the blocks are added.
inline constexpr Index kPartKeys = 32;

/// emit(r, h, max, sum, out) for every row and head: the state in double, scores in base 2.
template <Scalar T, class S, class Score, class Emit>
void for_each_row(const AttentionInput<T, S>& in, const Score& score_of, Emit emit) {
  constexpr double log2e = 1.44269504088896340736;
  const Index d = in.shape.head_dim;
  struct Key {
    const KeyPiece<S>* piece;
    Index token;
  };
  std::vector<Key> keys;
  for (const auto& piece : in.keys)
    for (Index t = 0; t < piece.count; ++t) keys.push_back({&piece, t});
  std::vector<double> score(keys.size()), out(static_cast<std::size_t>(in.shape.output_dim())),
      part(out);
  const MaskView mask = in.mask();

  for (Index r = 0; r < in.num_rows(); ++r)
    for (Index h = 0; h < in.shape.num_heads; ++h) {
      const Index kv_head = h / in.shape.group();
      const T* q = in.q.row(r) + h * d;
      double max = -std::numeric_limits<double>::infinity();
      for (const Interval seen : mask.row(r))
        for (Index j = seen.begin; j < seen.end; ++j) {
          const Key& key = keys[static_cast<std::size_t>(j)];
          double& s = score[static_cast<std::size_t>(j)];
          const double product = in.scale * dot(q, key.piece->key(kv_head, key.token), d);
          s = log2e * casa::detail::score_in_double(score_of, product, r, h, j);
          max = s != s ? s : (std::max)(max, s);  // (NaN must not be lost)
        }
      // A row that sees only keys whose scores are -inf has seen none.
      const double base = max == -std::numeric_limits<double>::infinity() ? 0 : max;
      double sum = 0;
      std::fill(out.begin(), out.end(), 0.0);
      for (const Interval seen : mask.row(r))
        for (Index from = seen.begin; from < seen.end; from += kPartKeys) {
          double part_sum = 0;
          std::fill(part.begin(), part.end(), 0.0);
          for (Index j = from; j < (std::min)(seen.end, from + kPartKeys); ++j) {
            const Key& key = keys[static_cast<std::size_t>(j)];
            const double weight = std::exp2(score[static_cast<std::size_t>(j)] - base);
            const S* value = key.piece->value(kv_head, key.token);
            part_sum += weight;
            for (std::size_t i = 0; i < part.size(); ++i)
              part[i] += weight * static_cast<double>(widen(value[i]));
          }
          sum += part_sum;
          for (std::size_t i = 0; i < part.size(); ++i) out[i] += part[i];
        }
      if (!in.sinks.empty()) {
        const double sink = log2e * static_cast<double>(in.sinks[static_cast<std::size_t>(h)]);
        const double factor = casa::detail::add_sink(max, sum, sink);
        for (double& x : out) x *= factor;
      }
      emit(r, h, max, sum, out.data());
    }
}

}  // namespace detail

/// out = softmax(scale q k^T) v and its log-sum-exp: the same arguments as casa::attend.
template <Scalar T, class S, class Score>
void attend(const AttentionInput<T, S>& in, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse, const Context&, const Score& score) {
  casa::detail::check(in);
  casa::detail::check_score(score, in);
  casa::detail::check_output<T, S>(in, out);
  const Index d = in.shape.output_dim();
  detail::for_each_row(in, score, [&](Index r, Index h, double max, double sum, const double* o) {
    for (Index i = 0; i < d; ++i) out(r, h * d + i) = static_cast<T>(sum == 0 ? 0 : o[i] / sum);
    if (lse) lse[r * in.shape.num_heads + h] = static_cast<T>(casa::detail::log_sum_exp(max, sum));
  });
}
/// The same without a score function.
template <Scalar T, class S>
void attend(const AttentionInput<T, S>& in, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse = nullptr, const Context& context = {}) {
  naive::attend(in, out, lse, context, PlainScore{});  // (else casa::attend is found as well)
}

/// The state over all keys that each row sees: the same arguments as casa::attend_state.
template <Scalar T, class S, class Score = PlainScore>
AttentionState<T> attend_state(const AttentionInput<T, S>& in, const Context& = {},
                               const Score& score = {}) {
  casa::detail::check(in);
  casa::detail::check_score(score, in);
  auto state = empty_state<T>(in.num_rows(), in.shape);
  const Index d = in.shape.output_dim();
  detail::for_each_row(in, score, [&](Index r, Index h, double max, double sum, const double* o) {
    (state.max)(r, h) = static_cast<T>(max);
    // The sums are made relative to the rounded maximum, so that merging loses nothing by the
    // rounding.
    const double shift = max - static_cast<double>((state.max)(r, h));
    const double factor = std::abs(shift) < 1 ? std::exp2(shift) : 1.0;
    state.sum(r, h) = static_cast<T>(sum * factor);
    for (Index i = 0; i < d; ++i) state.out(r, h * d + i) = static_cast<T>(o[i] * factor);
  });
  return state;
}

}  // namespace naive

CASA_NAMESPACE_END
