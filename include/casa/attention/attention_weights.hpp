// The softmax weights of chosen rows and heads, made again from q, k and the log-sum-exp: what
// attention looked at, for whoever asks. attend() itself never holds a row of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "casa/attention/input.hpp"
#include "casa/attention/naive.hpp"
#include "casa/attention/score_place.hpp"
#include "casa/core/list_view.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The dot product of n values, in double. Its eight sums are independent, so that compilers make
/// vectors of them: a value passes n / 8 + 4 roundings at most.
template <class T, class S>
double dot_in_double(const T* a, const S* b, Index n) {
  double sum[8] = {};
  const auto product = [&](Index i) {
    return static_cast<double>(a[i]) * static_cast<double>(widen(b[i]));
  };
  Index i = 0;
  for (; i + 8 <= n; i += 8)
    for (Index lane = 0; lane < 8; ++lane) sum[lane] += product(i + lane);
  for (Index lane = 0; i + lane < n; ++lane) sum[lane] += product(i + lane);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/// Throws casa::error unless `in` and `score` fit each other, the heads are there, and `weights`
/// has room for theirs.
template <Scalar T, class S, class Score>
void check_weights(const AttentionInput<T, S>& in, const Score& score, std::span<const Index> heads,
                   const MatrixView<T>& weights) {
  check<false>(in);
  check_score(score, in);
  const auto count = static_cast<Index>(heads.size());
  for (Index i = 0; i < count; ++i) {
    const Index head = heads[static_cast<std::size_t>(i)];
    require(0 <= head && head < in.shape.num_heads, "attention weights: heads[", i,
            "] must be in [0, ", in.shape.num_heads, "), got ", head);
  }
  require_equal("attention weights: rows of weights (rows * heads)", weights.rows(),
                checked_mul(in.num_rows(), count, "attention weights"));
  if (weights.rows() > 0)
    require_equal("attention weights: columns of weights (keys)", weights.cols(), in.num_keys());
  require_memory("attention weights: weights", weights);
}

}  // namespace detail

/// weights = exp(score(scale q.k) - lse) over the keys that each row sees, zeros over the others:
/// what attend() multiplies values with, recomputed as FlashAttention's backward pass does (arXiv
/// 2205.14135, section 3.1).
///
/// `heads` are the query heads asked for. `lse` is what attend() gave for `in` and `score`: (rows,
/// num_heads) row-major, all heads. `weights` is (rows * heads.size(), number of keys): its row
/// r * heads.size() + i holds row r's weights in head heads[i], a column for each place of a key.
/// Rows sum to 1 up to the error of lse (with a sink: to what the sink leaves). A row whose lse is
/// -inf (it sees no key, or every score overflowed to -inf) is zeros; one whose lse is +inf or NaN
/// is NaN over what it sees. Values (v of a KeyPiece) are not read and may be null.
///
/// Scores are computed in double. If attend() ran with Precision::storage, its own were of rounded
/// queries, and these weights sum to 1 only up to that rounding. Costs one dot product a key, row
/// and head, on the calling thread, and no memory. Throws casa::error, before anything is written,
/// if sizes do not fit, a head is out of range or an interval leaves the keys.
template <Scalar T, class S, class Score = PlainScore>
void attention_weights(const AttentionInput<T, S>& in, ListView<Index> heads,
                       ListView<std::type_identity_t<T>> lse,
                       MatrixView<std::type_identity_t<T>> weights, const Score& score = {}) {
  if constexpr (detail::is_score<Score>()) {
    const std::span<const Index> asked = heads.span();
    const std::span<const T> of_row = lse.span();
    detail::check_weights(in, score, asked, weights);
    require_equal("attention weights: values of lse (rows * num_heads)",
                  static_cast<Index>(of_row.size()),
                  checked_mul(in.num_rows(), in.shape.num_heads, "attention weights: lse"));
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const Index d = in.shape.head_dim;
    const MaskView mask = in.mask();
    Index row = 0;  // of weights
    for (Index r = 0; r < in.num_rows(); ++r)
      for (const Index head : asked) {
        T* out = weights.row(row++);
        std::fill_n(out, weights.cols(), T(0));
        const T total = of_row[static_cast<std::size_t>(r * in.shape.num_heads + head)];
        if (total == -infinity) continue;
        const double minus = total == infinity ? std::numeric_limits<double>::quiet_NaN()
                                               : -static_cast<double>(total);
        const T* q = in.q.row(r) + head * d;
        Index first = 0;  // place of the piece's first key
        for (const auto& piece : in.keys) {
          for (const Interval seen : mask.row(r)) {
            const Index begin = (std::max)(seen.begin - first, Index{0});
            const Index end = (std::min)(seen.end - first, piece.count);
            for (Index t = begin; t < end; ++t) {
              const double s =
                  in.scale * detail::dot_in_double(q, piece.key(head / in.shape.group(), t), d);
              out[first + t] = static_cast<T>(
                  std::exp(detail::score_in_double(score, s, r, head, first + t) + minus));
            }
          }
          first += piece.count;
        }
      }
  }
}

namespace naive {

/// softmax(score(scale q k^T)) by its definition, in double: the arguments of
/// casa::attention_weights but for lse, in whose place stands the row's own sum.
template <Scalar T, class S, class Score = PlainScore>
void attention_weights(const AttentionInput<T, S>& in, ListView<Index> heads,
                       MatrixView<std::type_identity_t<T>> weights, const Score& score = {}) {
  if constexpr (casa::detail::is_score<Score>()) {
    casa::detail::check_weights(in, score, heads.span(), weights);
    constexpr double none = -std::numeric_limits<double>::infinity();
    const Index num_keys = in.num_keys();
    std::vector<double> scores(static_cast<std::size_t>(num_keys));
    Index row = 0;
    for (Index r = 0; r < in.num_rows(); ++r)
      for (const Index head : heads.span()) {
        std::fill(scores.begin(), scores.end(), none);  // what the row does not see
        const T* q = in.q.row(r) + head * in.shape.head_dim;
        for (const Interval seen : in.mask().row(r)) {
          Index place = 0;
          for (const auto& piece : in.keys)
            for (Index t = 0; t < piece.count; ++t, ++place) {
              if (place < seen.begin || place >= seen.end) continue;
              const S* k = piece.key(head / in.shape.group(), t);
              scores[static_cast<std::size_t>(place)] = casa::detail::score_in_double(
                  score, in.scale * detail::dot(q, k, in.shape.head_dim), r, head, place);
            }
        }
        const double sink =
            in.sinks.empty() ? none : static_cast<double>(in.sinks[static_cast<std::size_t>(head)]);
        double max = sink;
        for (const double s : scores) max = s != s ? s : (std::max)(max, s);
        T* out = weights.row(row++);
        std::fill_n(out, weights.cols(), T(0));
        if (max == none) continue;
        double sum = std::exp(sink - max);
        for (Index from = 0; from < num_keys;) {
          double part = 0;
          const Index end = (std::min)(num_keys, from + detail::kPartKeys);
          for (; from < end; ++from) part += std::exp(scores[static_cast<std::size_t>(from)] - max);
          sum += part;
        }
        for (Index j = 0; j < num_keys; ++j) {
          const double s = scores[static_cast<std::size_t>(j)];
          if (s != none) out[j] = static_cast<T>(std::exp(s - max) / sum);
        }
      }
  }
}

}  // namespace naive

CASA_NAMESPACE_END
