// RMSNorm (Zhang & Sennrich, arXiv 1910.07467): each row divided by its root mean square.
#pragma once

#include <cmath>
#include <span>

#include "casa/core/context.hpp"
#include "casa/core/scalar.hpp"

CASA_NAMESPACE_BEGIN

/// out = x / sqrt(mean(x^2) + eps) * weight, row by row; x and out (rows x d), weight (d). out may
/// be x.
template <Scalar T>
void rms_norm(MatrixView<const T> x, std::span<const std::type_identity_t<T>> weight, double eps,
              MatrixView<std::type_identity_t<T>> out, const Context& context) {
  const Index d = x.cols();
  require_equal("rms_norm: values of weight", static_cast<Index>(weight.size()), d);
  require_equal("rms_norm: columns of out", out.cols(), d);
  require_equal("rms_norm: rows of out", out.rows(), x.rows());
  context.executor.for_each(
      x.rows(),
      [&](Index r, Index) {
        const T* a = x.row(r);
        T* o = out.row(r);
        T sum = 0;
        for (Index c = 0; c < d; ++c) sum += a[c] * a[c];
        const T scale = T{1} / std::sqrt(sum / static_cast<T>(d) + static_cast<T>(eps));
        for (Index c = 0; c < d; ++c) o[c] = a[c] * scale * weight[static_cast<std::size_t>(c)];
      },
      16);
}

CASA_NAMESPACE_END
