// Attention for programs that know nothing of streams: matrices or plain pointers in, a matrix out.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "casa/attention/attend.hpp"

CASA_NAMESPACE_BEGIN

/// What the simple forms may be told; everything has a usual value.
template <Scalar T>
struct AttendOptions {
  Index num_heads = 1;
  Index num_kv_heads = 1;
  std::optional<double> scale = {};  ///< 1 / sqrt(head_dim) unless given
  T* lse = nullptr;                  ///< (rows, num_heads), written unless null
  const Context* context = nullptr;  ///< threads and scratch memory; one thread unless given
};

namespace detail {

/// What a matrix (Eigen's or ours) holds.
template <class M>
using ValueOf = std::remove_const_t<std::remove_pointer_t<decltype(std::declval<M&>().data())>>;

}  // namespace detail

/// q (rows, num_heads * head_dim), k and v (keys, num_kv_heads * head_dim), heads side by side, as
/// row-major Eigen objects, Matrix, or MatrixView (data, rows, cols, stride); row r sees the keys
/// of intervals[r]. Returns (rows, num_heads * head_dim). Throws casa::error if sizes do not fit.
template <class Q, class K, class V>
requires Scalar<detail::ValueOf<Q>> && StorageFor<detail::ValueOf<K>, detail::ValueOf<Q>>
auto attend(const Q& q_rows, const K& k_rows, const V& v_rows, std::span<const Interval> intervals,
            const AttendOptions<detail::ValueOf<Q>>& options = {}) {
  using T = detail::ValueOf<Q>;
  using S = detail::ValueOf<K>;
  const MatrixView<const T> q(q_rows);
  const MatrixView<const S> k(k_rows), v(v_rows);
  require(options.num_heads >= 1 && q.cols() % options.num_heads == 0,
          "attend: columns of q must be a multiple of num_heads = ", options.num_heads, ", got ",
          q.cols());
  const AttentionShape shape{options.num_heads, options.num_kv_heads, q.cols() / options.num_heads};
  detail::check_shape(shape);
  require_equal("attend: columns of k", k.cols(), shape.num_kv_heads * shape.head_dim);
  require_equal("attend: columns of v", v.cols(), k.cols());
  require_equal("attend: rows of v", v.rows(), k.rows());
  require_equal("attend: stride of v", v.stride(), k.stride());
  const KeyPiece<S> piece{k.data(), v.data(), k.rows(), k.stride(), shape.head_dim};
  const AttentionInput<T, S> in{
      shape, options.scale.value_or(default_scale(shape.head_dim)), q, {&piece, 1}, intervals};
  RowMatrix<T> out(q.rows(), q.cols());
  if (options.context)
    attend(in, out, options.lse, *options.context);
  else
    attend(in, out, options.lse);
  return out;
}

namespace detail {

inline void check_varlen(std::span<const std::int32_t> q, std::span<const std::int32_t> k) {
  require(
      !q.empty() && q.size() == k.size(),
      "varlen: cu_seqlens_q and cu_seqlens_k must have equally many entries, at least one, got ",
      q.size(), " and ", k.size());
  require(q[0] == 0 && k[0] == 0, "varlen: cu_seqlens must begin with 0, got ", q[0], " and ",
          k[0]);
  for (std::size_t b = 0; b + 1 < q.size(); ++b)
    require(q[b + 1] >= q[b] && k[b + 1] >= k[b], "varlen: cu_seqlens must not decrease, sequence ",
            b, " has ", Index{q[b + 1]} - Index{q[b]}, " queries and ",
            Index{k[b + 1]} - Index{k[b]}, " keys");
}

}  // namespace detail

/// The intervals of sequences packed end to end: sequence b has queries [cu_seqlens_q[b],
/// cu_seqlens_q[b+1]) and keys [cu_seqlens_k[b], cu_seqlens_k[b+1]). Causal is aligned at the
/// bottom right, as in flash-attention: the last query sees all keys of its sequence, each one
/// before it one key less.
///
/// Throws casa::error unless both lists begin with 0, do not fall and have equally many entries.
inline std::vector<Interval> varlen_intervals(std::span<const std::int32_t> cu_seqlens_q,
                                              std::span<const std::int32_t> cu_seqlens_k,
                                              bool causal) {
  detail::check_varlen(cu_seqlens_q, cu_seqlens_k);
  const auto &q = cu_seqlens_q, &k = cu_seqlens_k;
  std::vector<Interval> intervals;
  for (std::size_t b = 0; b + 1 < q.size(); ++b) {
    const Index rows = Index{q[b + 1]} - Index{q[b]}, begin = k[b], end = k[b + 1];
    for (Index i = 0; i < rows; ++i)
      intervals.push_back({begin, causal ? end - (rows - 1 - i) : end});
  }
  return intervals;
}

/// flash-attention's variable-length attention: q (total_q, num_heads * head_dim), k and v
/// (total_k, num_kv_heads * head_dim), sequences end to end as cu_seqlens say. There may be more
/// rows than that: those of q see nothing (zeros, log-sum-exp -inf), those of k and v are not read.
/// Throws casa::error if sizes do not fit or the lists are none (varlen_intervals).
template <class Q, class K, class V>
auto varlen(const Q& q, const K& k, const V& v, std::span<const std::int32_t> cu_seqlens_q,
            std::span<const std::int32_t> cu_seqlens_k, bool causal,
            const AttendOptions<detail::ValueOf<Q>>& options = {}) {
  detail::check_varlen(cu_seqlens_q, cu_seqlens_k);
  for (const auto& [name, rows, end] :
       {std::tuple{"q", Index{q.rows()}, Index{cu_seqlens_q.back()}},
        std::tuple{"k", Index{k.rows()}, Index{cu_seqlens_k.back()}}})
    require(end <= rows, "varlen: cu_seqlens_", name, " ends at ", end, ", but ", name, " has ",
            rows, " rows");
  auto intervals = varlen_intervals(cu_seqlens_q, cu_seqlens_k, causal);
  intervals.resize(static_cast<std::size_t>(q.rows()));  // padding sees nothing
  return attend(q, k, v, std::span<const Interval>(intervals), options);
}

CASA_NAMESPACE_END
