// Attention by its definition, one row and head after the other, computed in double.
//
// Long sums are made of shorter ones: in one chain of additions their rounding would grow beyond
// what attention in double may be off by.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "casa/attention/input.hpp"
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

/// Keys of a part of the sums of weights and weighted values.
inline constexpr std::size_t kPartKeys = 32;

/// emit(r, h, max, sum, out) for every row and head: the state in double, scores in base 2.
template <Scalar T, class S, class Emit>
void for_each_row(const AttentionInput<T, S>& in, Emit emit) {
  const Index d = in.shape.head_dim;
  const double scale = in.scale * 1.44269504088896340736;
  std::vector<const S*> k, v;  // head 0 of every place
  std::vector<Index> head_stride;
  for (const auto& piece : in.keys)
    for (Index t = 0; t < piece.count; ++t) {
      k.push_back(piece.k + t * piece.token_stride);
      v.push_back(piece.v + t * piece.token_stride);
      head_stride.push_back(piece.head_stride);
    }
  std::vector<double> score(k.size()), out(static_cast<std::size_t>(d)), part(out);

  for (Index r = 0; r < in.num_rows(); ++r)
    for (Index h = 0; h < in.shape.num_heads; ++h) {
      const Index kv_head = h / in.shape.group();
      const T* q = in.q.row(r) + h * d;
      const Interval seen = in.intervals[static_cast<std::size_t>(r)];
      const auto begin = static_cast<std::size_t>(seen.size() > 0 ? seen.begin : 0);
      const auto end = begin + static_cast<std::size_t>(seen.size());

      double max = -std::numeric_limits<double>::infinity();
      for (std::size_t j = begin; j < end; ++j) {
        score[j] = scale * dot(q, k[j] + kv_head * head_stride[j], d);
        max = (std::max)(max, score[j]);
      }
      double sum = 0;
      std::fill(out.begin(), out.end(), 0.0);
      for (std::size_t from = begin; from < end; from += kPartKeys) {
        double part_sum = 0;
        std::fill(part.begin(), part.end(), 0.0);
        for (std::size_t j = from; j < (std::min)(end, from + kPartKeys); ++j) {
          const double weight = std::exp2(score[j] - max);
          const S* value = v[j] + kv_head * head_stride[j];
          part_sum += weight;
          for (std::size_t i = 0; i < part.size(); ++i)
            part[i] += weight * static_cast<double>(widen(value[i]));
        }
        sum += part_sum;
        for (std::size_t i = 0; i < part.size(); ++i) out[i] += part[i];
      }
      emit(r, h, max, sum, out.data());
    }
}

}  // namespace detail

/// out = softmax(scale q k^T) v and its log-sum-exp: the same arguments as casa::attend.
template <Scalar T, class S>
void attend(const AttentionInput<T, S>& in, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse = nullptr, const Context& = {}) {
  casa::detail::check(in);
  casa::detail::check_output<T, S>(in, out);
  const Index d = in.shape.head_dim;
  detail::for_each_row(in, [&](Index r, Index h, double max, double sum, const double* o) {
    for (Index i = 0; i < d; ++i) out(r, h * d + i) = static_cast<T>(sum == 0 ? 0 : o[i] / sum);
    if (lse) lse[r * in.shape.num_heads + h] = static_cast<T>(casa::detail::log_sum_exp(max, sum));
  });
}

/// The state over all keys that each row sees: the same arguments as casa::attend_state.
template <Scalar T, class S>
AttentionState<T> attend_state(const AttentionInput<T, S>& in, const Context& = {}) {
  casa::detail::check(in);
  auto state = empty_state<T>(in.num_rows(), in.shape);
  const Index d = in.shape.head_dim;
  detail::for_each_row(in, [&](Index r, Index h, double max, double sum, const double* o) {
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
