// The gradients of RMSNorm: of its input and of its weight.
#pragma once

#include "casa/layers/rms_norm.hpp"
#include "casa/linear/linear.hpp"

CASA_NAMESPACE_BEGIN

/// The gradients of out = x s w with s = 1 / sqrt(mean(x^2) + eps), row by row:
///
///   d_x (+)= s (w d_out - x s^2 mean(w d_out x))      d_weight += the sum over rows of d_out x s
///
/// x, d_out and d_x (rows x d), weight and d_weight (d; empty: none is asked for). s is computed
/// anew. With Accumulate::no, d_x may be d_out or x. Bits do not depend on the number of threads.
/// Throws casa::error for other sizes.
template <Scalar T>
void rms_norm_backward(MatrixView<const T> x, std::span<const std::type_identity_t<T>> weight,
                       double eps, MatrixView<const std::type_identity_t<T>> d_out,
                       MatrixView<std::type_identity_t<T>> d_x,
                       std::span<std::type_identity_t<T>> d_weight, const Context& context,
                       Accumulate accumulate = Accumulate::no) {
  const Index d = x.cols(), rows = x.rows();
  require_equal("rms_norm_backward: values of weight", std::ssize(weight), d);
  require_equal("rms_norm_backward: columns of d_out", d_out.cols(), d);
  require_equal("rms_norm_backward: rows of d_out", d_out.rows(), rows);
  require_equal("rms_norm_backward: columns of d_x", d_x.cols(), d);
  require_equal("rms_norm_backward: rows of d_x", d_x.rows(), rows);
  if (!d_weight.empty())
    require_equal("rms_norm_backward: values of d_weight", std::ssize(d_weight), d);
  require_memory("rms_norm_backward: x", x);
  require_memory("rms_norm_backward: d_out", d_out);
  require_memory("rms_norm_backward: d_x", d_x);
  if (rows == 0 || d == 0) return;
  const T* w = weight.data();
  const auto size = static_cast<T>(d);
  const auto scale_of = [&](T sum) { return T{1} / std::sqrt(sum / size + static_cast<T>(eps)); };
  if (context.path == Path::naive) {
    for (Index r = 0; r < rows; ++r) {
      T sum = 0, dot = 0;
      for (Index c = 0; c < d; ++c) sum += x(r, c) * x(r, c), dot += w[c] * d_out(r, c) * x(r, c);
      const T s = scale_of(sum), mean = dot / size;
      for (Index c = 0; c < d; ++c) {
        const T d_weighted = d_out(r, c);
        const T value = s * (w[c] * d_weighted - x(r, c) * s * s * mean);
        if (!d_weight.empty()) d_weight[static_cast<std::size_t>(c)] += d_weighted * x(r, c) * s;
        d_x(r, c) = accumulate == Accumulate::yes ? d_x(r, c) + value : value;
      }
    }
    return;
  }
  using V = simd::Vec<T>;
  const Workspace::Frame frame(context.workspace);
  T* scales = context.workspace.take<T>(rows);
  context.executor.for_each(
      rows, [&](Index r, Index) { scales[r] = scale_of(detail::sum_of_squares(x.row(r), d)); }, 16);
  // The weight's gradient comes first: d_x may lie where x or d_out does.
  if (!d_weight.empty()) {
    constexpr Index lanes = simd::kLanes<T>;
    context.executor.for_each((d + lanes - 1) / lanes, [&](Index group, Index) {
      const Index c = group * lanes, n = (std::min)(lanes, d - c);
      V sum{};
      for (Index r = 0; r < rows; ++r)
        sum = simd::fma(detail::load_n(d_out.row(r) + c, n) * detail::load_n(x.row(r) + c, n),
                        simd::broadcast(scales[r]), sum);
      T* to = d_weight.data() + c;
      detail::store_n(to, detail::load_n(to, n) + sum, n);
    });
  }
  context.executor.for_each(
      rows,
      [&](Index r, Index) {
        const T *a = x.row(r), *g = d_out.row(r);
        T* to = d_x.row(r);
        const auto weighted = [&](Index c, Index n) {
          return detail::load_n(w + c, n) * detail::load_n(g + c, n);
        };
        V dot{};
        detail::for_each_vector<T>(d, [&](Index c, Index n) {
          dot = simd::fma(weighted(c, n), detail::load_n(a + c, n), dot);
        });
        const T s = scales[r];
        const V back = simd::broadcast(-(s * s * s * (simd::reduce_add(dot) / size)));
        detail::for_each_vector<T>(d, [&](Index c, Index n) {
          // Fused here, not by the compiler, which may choose another product in another copy.
          V value = simd::fma(detail::load_n(a + c, n), back, weighted(c, n) * s);
          if (accumulate == Accumulate::yes) value = detail::load_n(to + c, n) + value;
          detail::store_n(to + c, value, n);
        });
      },
      16);
}

CASA_NAMESPACE_END
