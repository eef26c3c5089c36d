// Where the results of attention's rows go, and what becomes of a row's maximum and sum at the end:
// a result, a state, or the state of one part of a job.
#pragma once

#include <algorithm>
#include <limits>

#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/state.hpp"
#include "casa/core/bits.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Where results go: the quotient and log-sum-exp, or the state (max, sum, undivided out).
template <class T>
struct Destination {
  MatrixView<T> out;  ///< (rows, num_heads * value_dim)
  T* lse = nullptr;   ///< (rows, num_heads) or null
  T* max = nullptr;   ///< (rows, num_heads); null: out is the result, else the state
  T* sum = nullptr;
};

/// Results of so many bytes are streamed past the caches, where they would not stay for who reads
/// them next. A store to a line that is not in cache reads it first, and the stores behind it wait:
/// of windows of 16 keys, 2,048 tokens (16 MB of results, a Zen 5) it took a quarter of the time.
/// From 8 MB on attention and a loop that reads its results after it gained 19 to 25 % together, at
/// 4 MB they lost 1 %.
inline constexpr Index kStreamedBytes = Index{6} << 20;

template <class T>
bool streams_results(const MatrixView<T>& out, Index value_dim) {
  const auto aligned = [](Index bytes) { return bytes % 64 == 0; };
  constexpr Index size = static_cast<Index>(sizeof(T));
  return out.rows() >= kStreamedBytes / size / (std::max<Index>)(1, out.cols()) &&
         aligned(bit_cast<Index>(out.data())) && aligned(out.stride() * size) &&
         aligned(value_dim * size);
}

/// The states of the parts of split jobs, for each part and each row of its job.
template <class T>
struct Parts {
  T* max = nullptr;
  T* sum = nullptr;
  T* out = nullptr;  ///< value_dim values each
  Index rows = 0;    ///< of one part
};

/// A row's largest score (base 2) and its sum of weights.
template <class T>
struct RowState {
  T max = -std::numeric_limits<T>::infinity();
  T sum = T(0);
};

/// The end of one row and head: adds the head's sink, writes log-sum-exp or the state's max and
/// sum, and returns what the weighted values are multiplied by.
template <class T, class S>
T finish_row(const AttentionInput<T, S>& in, const Destination<T>& to, Index token, Index head,
             RowState<T> row) {
  T factor = T(1);
  if (!in.sinks.empty()) {
    const double sink =
        1.44269504088896340736 * static_cast<double>(in.sinks[static_cast<std::size_t>(head)]);
    factor = add_sink(row.max, row.sum, static_cast<T>(sink));
  }
  const Index at = token * in.shape.num_heads + head;
  if (to.max != nullptr) {
    to.max[at] = row.max;
    to.sum[at] = row.sum;
    return factor;
  }
  if (to.lse != nullptr) to.lse[at] = log_sum_exp(row.max, row.sum);
  return row.sum == T(0) ? T(0) : factor / row.sum;
}

/// Merges the parts of each split job, in their order, into the result.
template <class T, class S>
void merge_parts(const AttentionInput<T, S>& in, const Plan& plan, const Parts<T>& parts,
                 const Destination<T>& to) {
  const Index d = in.shape.output_dim(), group = in.shape.group();
  for (const Job& job : plan.jobs) {
    if (job.part < 0 || job.parts == 0) continue;
    for (Index row = 0; row < job.rows(group); ++row) {
      const Index first = job.part * parts.rows + row;
      for (Index part = 1; part < job.parts; ++part) {
        const Index at = first + part * parts.rows;
        merge_row(parts.max[first], parts.sum[first], parts.out + first * d, parts.max[at],
                  parts.sum[at], parts.out + at * d, d);
      }
      const Index token = plan.order[job.row_begin + row / group];
      const Index head = job.kv_head * group + row % group;
      const T factor = finish_row(in, to, token, head, {parts.max[first], parts.sum[first]});
      for (Index i = 0; i < d; ++i) to.out(token, head * d + i) = parts.out[first * d + i] * factor;
    }
  }
}

}  // namespace detail

CASA_NAMESPACE_END
