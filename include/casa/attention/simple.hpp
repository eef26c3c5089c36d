// Attention for programs that know nothing of streams: matrices or plain pointers in, a matrix out
// (attend(q, k, v, ...) of attend.hpp), and flash-attention's sequences packed end to end,
// varlen().
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "casa/attention/attend.hpp"

CASA_NAMESPACE_BEGIN

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
/// (total_k, num_kv_heads * head_dim), a row per token, sequences end to end as cu_seqlens (lists
/// of std::int32_t, also in braces) say. There may be more rows than that: those of q see nothing
/// (zeros, log-sum-exp -inf), those of k and v are not read. Returns RowMatrix (rows of q,
/// num_heads * head_dim). Throws casa::error if sizes do not fit or a cu_seqlens list
/// does not start at 0 or decreases (varlen_intervals).
template <class Q, class K, class V>
auto varlen(const Q& q, const K& k, const V& v, ListView<std::int32_t> cu_seqlens_q,
            ListView<std::int32_t> cu_seqlens_k, bool causal,
            const detail::OptionsFor<Q>& options = {}) {
  using T = detail::ComputeType<Q>;
  if constexpr (detail::are_attention_matrices<Q, K, V>()) {
    const auto ends_q = cu_seqlens_q.span(), ends_k = cu_seqlens_k.span();
    detail::check_varlen(ends_q, ends_k);
    const auto check_rows = [](const char* name, Index rows, Index end) {
      require(end <= rows, "varlen: cu_seqlens_", name, " ends at ", end, ", but ", name, " has ",
              rows, " rows");
    };
    check_rows("q", q.rows(), ends_q.back());
    const Index heads = options.head_major ? (std::max<Index>)(1, options.num_kv_heads) : 1;
    check_rows("k", k.rows() / heads, ends_k.back());
    auto intervals = varlen_intervals(ends_q, ends_k, causal);
    intervals.resize(static_cast<std::size_t>(q.rows()));  // padding sees nothing
    return attend(q, k, v, intervals, options);
  } else {
    return RowMatrix<T>();
  }
}

CASA_NAMESPACE_END
