// RMSNorm (Zhang & Sennrich, arXiv 1910.07467): each row divided by its root mean square.
#pragma once

#include <cmath>
#include <span>

#include "casa/core/context.hpp"
#include "casa/simd/elementwise.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

template <Scalar T>
T sum_of_squares(const T* x, Index d) {
  constexpr Index lanes = simd::kLanes<T>;
  simd::Vec<T> sum[4] = {};  // independent sums, since one would wait for each addition
  Index c = 0;
  for (; c + 4 * lanes <= d; c += 4 * lanes)
    for (int i = 0; i < 4; ++i) {
      const simd::Vec<T> v = simd::load(x + c + i * lanes);
      sum[i] = simd::fma(v, v, sum[i]);
    }
  for_each_vector<T>(d - c, [&](Index at, Index n) {
    const simd::Vec<T> v = load_n(x + c + at, n);
    sum[0] = simd::fma(v, v, sum[0]);
  });
  return simd::reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

}  // namespace detail

/// out = x / sqrt(mean(x^2) + eps) * weight, row by row; x and out (rows x d), weight (d). out may
/// be x. Throws casa::error for other sizes.
template <Scalar T>
void rms_norm(MatrixView<const T> x, std::span<const std::type_identity_t<T>> weight, double eps,
              MatrixView<std::type_identity_t<T>> out, const Context& context) {
  const Index d = x.cols();
  require_equal("rms_norm: values of weight", static_cast<Index>(weight.size()), d);
  require_equal("rms_norm: columns of out", out.cols(), d);
  require_equal("rms_norm: rows of out", out.rows(), x.rows());
  require_memory("rms_norm: x", x);
  require_memory("rms_norm: out", out);
  const T* w = weight.data();
  const auto scale_of = [&](T sum) {
    return T{1} / std::sqrt(sum / static_cast<T>(d) + static_cast<T>(eps));
  };
  if (context.path == Path::naive) {
    for (Index r = 0; r < x.rows(); ++r) {
      T sum = 0;
      for (Index c = 0; c < d; ++c) sum += x(r, c) * x(r, c);
      const T scale = scale_of(sum);
      for (Index c = 0; c < d; ++c) out(r, c) = x(r, c) * scale * w[c];
    }
    return;
  }
  context.executor.for_each(
      x.rows(),
      [&](Index r, Index) {
        const T* a = x.row(r);
        T* o = out.row(r);
        const T scale = scale_of(detail::sum_of_squares(a, d));
        detail::for_each_vector<T>(d, [&](Index c, Index n) {
          detail::store_n(o + c, detail::load_n(a + c, n) * scale * detail::load_n(w + c, n), n);
        });
      },
      16);
}

CASA_NAMESPACE_END
