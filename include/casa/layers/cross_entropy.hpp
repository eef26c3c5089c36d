// The loss of a language model, cross-entropy of chosen next tokens, and its gradients, without a
// matrix of all logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "casa/linear/linear_backward.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// The target of a row that takes no part in the loss.
inline constexpr int kIgnoredTarget = -100;

/// The cross-entropy of some rows.
struct CrossEntropy {
  double sum = 0;   ///< over the rows that have a target, in nats
  Index count = 0;  ///< rows that have a target

  /// The sum divided by the count; 0 where no row has a target.
  CASA_COMMON_INLINE double mean() const {
    return count > 0 ? sum / static_cast<double>(count) : 0;
  }
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

namespace detail {

/// Logits that are in memory at a time, at most, unless kLossRows rows have more.
inline constexpr Index kLossLogits = Index{1} << 24;
/// Rows that share a pass over the head's weight, at least and at most. The gradient of the weight
/// is read and written once a pass, and a product of few rows takes its panels apart for few rows.
inline constexpr Index kLossRows = 64, kMostLossRows = 512;

/// How many of `count` rows pass the head at a time: parts of one size, whatever the threads.
inline Index loss_rows(Index count, Index vocabulary) {
  const Index most = std::clamp(kLossLogits / vocabulary, kLossRows, kMostLossRows);
  return ceil_div(count, ceil_div(count, most));
}

/// log(sum of e^logits) - logits[target]. The logits become factor * (their softmax - the target's
/// one-hot vector), the gradient of factor times that, unless factor is 0: then they become nothing
/// in particular.
template <Scalar T>
double row_cross_entropy(T* logits, Index size, Index target, T factor) {
  using V = simd::Vec<T>;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  V highest = simd::broadcast<T>(-infinity);
  Index c = 0;
  for (; c + simd::kLanes<T> <= size; c += simd::kLanes<T>)
    highest = (simd::max)(simd::load(logits + c), highest);  // ignores NaN, which shows in the sums
  T largest = simd::reduce_max(highest);
  for (; c < size; ++c) largest = (std::max)(largest, logits[c]);
  const T of_target = logits[target] - largest;
  V sums{};
  for_each_vector<T>(size, [&](Index at, Index n) {
    const V e = simd::exp(load_n(logits + at, n) - largest);
    store_n(logits + at, e, n);
    if (n == simd::kLanes<T>) {
      sums += e;
    } else {
      for (Index i = 0; i < n; ++i) sums[i] += e[i];
    }
  });
  const T sum = simd::reduce_add(sums);
  if (factor != 0) {
    const T scale = factor / sum;
    for_each_vector<T>(
        size, [&](Index at, Index n) { store_n(logits + at, load_n(logits + at, n) * scale, n); });
    logits[target] -= factor;
  }
  return std::log(static_cast<double>(sum)) - static_cast<double>(of_target);
}
/// The same by its definition, in double.
template <Scalar T>
double row_cross_entropy_naive(T* logits, Index size, Index target, T factor) {
  const double largest = static_cast<double>(*std::max_element(logits, logits + size));
  double sum = 0;
  for (Index c = 0; c < size; ++c) sum += std::exp(static_cast<double>(logits[c]) - largest);
  const double loss = largest + std::log(sum) - static_cast<double>(logits[target]);
  for (Index c = 0; c < size; ++c) {
    const double p = std::exp(static_cast<double>(logits[c]) - largest) / sum;
    logits[c] = static_cast<T>(static_cast<double>(factor) * (p - (c == target ? 1 : 0)));
  }
  return loss;
}

template <Scalar T>
void check_targets(const Linear<T>& head, MatrixView<const T> x, std::span<const int> targets) {
  require_equal("cross_entropy: columns of x", x.cols(), head.in_features());
  require_equal("cross_entropy: number of targets", std::ssize(targets), x.rows());
  require_memory("cross_entropy: x", x);
  for (std::size_t i = 0; i < targets.size(); ++i)
    if (targets[i] != kIgnoredTarget && (targets[i] < 0 || targets[i] >= head.out_features()))
      fail("cross_entropy: target ", i, " must be in [0, ", head.out_features(), ") or ",
           kIgnoredTarget, " (ignored), got ", targets[i]);
}

/// The sum over the rows with a target; where factor is not 0, also the gradients of factor times
/// it.
template <Scalar T>
CrossEntropy sum_cross_entropy(const Linear<T>& head, MatrixView<const T> x,
                               std::span<const int> targets, double factor, MatrixView<T> d_x,
                               MatrixView<T> d_weight, const Context& context) {
  Workspace& workspace = context.workspace;
  const Workspace::Frame frame(workspace);
  CrossEntropy result;
  for (const int target : targets) result.count += target != kIgnoredTarget;
  if (result.count == 0) return result;
  Index* rows = workspace.take<Index>(result.count);
  for (Index r = 0, next = 0; r < x.rows(); ++r)
    if (targets[static_cast<std::size_t>(r)] != kIgnoredTarget) rows[next++] = r;

  const Index part = loss_rows(result.count, head.out_features());
  const MatrixView<T> logits = workspace.matrix<T>(part, head.out_features());
  const MatrixView<T> chosen = workspace.matrix<T>(part, x.cols());
  double* losses = workspace.take<double>(part);
  for (Index begin = 0; begin < result.count; begin += part) {
    const Index count = (std::min)(part, result.count - begin);
    const auto part_of = [&](MatrixView<T> m) { return m.middle_rows(0, count); };
    for (Index i = 0; i < count; ++i) std::copy_n(x.row(rows[begin + i]), x.cols(), chosen.row(i));
    head.forward(part_of(chosen), part_of(logits), context);
    context.executor.for_each(count, [&](Index i, Index) {
      const Index target = targets[static_cast<std::size_t>(rows[begin + i])];
      const auto of_row =
          context.path == Path::naive ? &row_cross_entropy_naive<T> : &row_cross_entropy<T>;
      losses[i] = of_row(logits.row(i), logits.cols(), target, static_cast<T>(factor));
    });
    for (Index i = 0; i < count; ++i) result.sum += losses[i];
    if (factor == 0) continue;
    if (d_weight.rows() > 0)
      linear_backward_weight<T>(part_of(chosen), part_of(logits), d_weight, {}, context);
    linear_backward_input(head, part_of(logits), part_of(chosen), context);
    for (Index i = 0; i < count; ++i)
      std::copy_n(chosen.row(i), x.cols(), d_x.row(rows[begin + i]));
  }
  return result;
}

}  // namespace detail

/// The cross-entropy of targets under the softmax of the logits that `head` gives for x: x (rows x
/// hidden) and a target for each row, in [0, out_features) or kIgnoredTarget. At most 16 million
/// logits are computed at a time (or those of 64 rows), and a row that is ignored costs nothing.
/// The bits do not depend on the number of threads. Throws casa::error for other sizes and targets.
template <Scalar T>
CrossEntropy cross_entropy(const Linear<T>& head, MatrixView<const std::type_identity_t<T>> x,
                           std::span<const int> targets, const Context& context) {
  detail::check_targets<T>(head, x, targets);
  return detail::sum_cross_entropy<T>(head, x, targets, 0, {}, {}, context);
}

/// The same, and the gradients of `factor` times its sum (1 / count: of the mean): d_x (rows x
/// hidden) is written, zero for a row that is ignored, and d_weight += that of the head's weight
/// (out_features x hidden), unless it is empty. d_x may be x. Logits are computed in the context's
/// precision, gradients in T. Throws casa::error as above, and for a factor that is not finite, or
/// is 0.
template <Scalar T>
CrossEntropy cross_entropy_backward(const Linear<T>& head,
                                    MatrixView<const std::type_identity_t<T>> x,
                                    std::span<const int> targets, double factor,
                                    MatrixView<std::type_identity_t<T>> d_x,
                                    MatrixView<std::type_identity_t<T>> d_weight,
                                    const Context& context) {
  detail::check_targets<T>(head, x, targets);
  require(std::isfinite(static_cast<T>(factor)) && static_cast<T>(factor) != 0,
          "cross_entropy_backward: factor must be finite and not 0, got ", factor);
  require_equal("cross_entropy_backward: rows of d_x", d_x.rows(), x.rows());
  require_equal("cross_entropy_backward: columns of d_x", d_x.cols(), x.cols());
  require_memory("cross_entropy_backward: d_x", d_x);
  if (d_weight.rows() != 0 || d_weight.cols() != 0) {
    require_equal("cross_entropy_backward: rows of d_weight", d_weight.rows(), head.out_features());
    require_equal("cross_entropy_backward: columns of d_weight", d_weight.cols(), x.cols());
    require_memory("cross_entropy_backward: d_weight", d_weight);
  }
  const CrossEntropy result =
      detail::sum_cross_entropy<T>(head, x, targets, factor, d_x, d_weight, context);
  for (Index r = 0; r < x.rows(); ++r)
    if (targets[static_cast<std::size_t>(r)] == kIgnoredTarget)
      std::fill_n(d_x.row(r), d_x.cols(), T{0});
  return result;
}

CASA_NAMESPACE_END
