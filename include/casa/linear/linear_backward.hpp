// The gradients of y = x W^T + b: of x, and of W and b.
#pragma once

#include "casa/linear/backward_product.hpp"

CASA_NAMESPACE_BEGIN

/// d_x (+)= d_y W of pieces [first, last) of a Linear, the gradient of forward_pieces()'s x: d_y
/// (rows x their outputs, as forward_pieces() orders them), d_x (rows x in_features). W is the
/// weight as it is computed with, of any WeightType, and is multiplied in T whatever the context's
/// precision. d_x must not overlap d_y.
///
/// Each value is the sum over the outputs in order, plus what stood there with Accumulate::yes: its
/// bits do not depend on the number of rows nor of threads. Throws casa::error for other sizes, or
/// other pieces.
template <Scalar T>
void linear_backward_input_pieces(const Linear<T>& linear,
                                  MatrixView<const std::type_identity_t<T>> d_y,
                                  MatrixView<std::type_identity_t<T>> d_x, Index first, Index last,
                                  const Context& context, Accumulate accumulate = Accumulate::no) {
  require(0 <= first && first <= last && last <= linear.num_pieces(),
          "linear_backward_input: pieces [", first, ", ", last, ") of ", linear.num_pieces());
  const bool made = linear.num_pieces() > 0;
  const Index begin = made ? linear.piece_begin(first) : 0;
  require_equal("linear_backward_input: columns of d_y", d_y.cols(),
                made ? linear.piece_begin(last) - begin : 0);
  require_equal("linear_backward_input: columns of d_x", d_x.cols(), linear.in_features());
  require_equal("linear_backward_input: rows of d_x", d_x.rows(), d_y.rows());
  require_memory("linear_backward_input: d_y", d_y);
  require_memory("linear_backward_input: d_x", d_x);
  if (d_x.rows() == 0 || d_x.cols() == 0) return;
  if (d_y.cols() == 0 || context.path == Path::naive) {
    auto out = d_x.eigen();
    if (accumulate == Accumulate::no) out.setZero();
    if (d_y.cols() > 0)
      out += d_y.eigen() * linear.unpacked().eigen().middleRows(begin, d_y.cols());
    return;
  }
  detail::multiply_backward<T>(
      d_x, d_y.cols(), accumulate, context,
      [&](Interval rows, const detail::TileSplit& split, Index packed_size, T* packed) {
        context.executor.for_each(split.tiles, [&](Index t, Index) {
          const Index row = split.begin(t);
          detail::pack_tile(d_y.middle_rows(rows.begin + row, split.size(t)),
                            packed + row * packed_size);
        });
      },
      [&](Interval outputs, Index column, T* to) {
        detail::unpack_block(linear, {begin + outputs.begin, begin + outputs.end}, column, to);
      });
}

/// The same of the whole, the gradient of forward()'s x: d_y (rows x out_features).
template <Scalar T>
void linear_backward_input(const Linear<T>& linear, MatrixView<const std::type_identity_t<T>> d_y,
                           MatrixView<std::type_identity_t<T>> d_x, const Context& context,
                           Accumulate accumulate = Accumulate::no) {
  linear_backward_input_pieces(linear, d_y, d_x, 0, linear.num_pieces(), context, accumulate);
}

/// d_weight += d_y^T x and d_bias += the sum of d_y's rows: the gradients of one weight (out x in)
/// and its bias (out values), with x (rows x in) and d_y (rows x out). What has no size is not
/// asked for. d_y may be some columns of a wider matrix, those of one piece of a Linear.
///
/// What is added is the sum over rows in order: its bits do not depend on the number of threads.
/// Throws casa::error for other sizes.
template <Scalar T>
void linear_backward_weight(MatrixView<const T> x, MatrixView<const std::type_identity_t<T>> d_y,
                            MatrixView<std::type_identity_t<T>> d_weight,
                            std::span<std::type_identity_t<T>> d_bias, const Context& context) {
  require_equal("linear_backward_weight: rows of d_y", d_y.rows(), x.rows());
  const bool weight_wanted = d_weight.rows() != 0 || d_weight.cols() != 0;
  if (weight_wanted) {
    require_equal("linear_backward_weight: rows of d_weight", d_weight.rows(), d_y.cols());
    require_equal("linear_backward_weight: columns of d_weight", d_weight.cols(), x.cols());
  }
  if (!d_bias.empty())
    require_equal("linear_backward_weight: values of d_bias", std::ssize(d_bias), d_y.cols());
  require_memory("linear_backward_weight: x", x);
  require_memory("linear_backward_weight: d_y", d_y);
  require_memory("linear_backward_weight: d_weight", d_weight);
  if (x.rows() == 0) return;
  if (context.path == Path::naive) {
    if (weight_wanted) d_weight.eigen() += d_y.eigen().transpose() * x.eigen();
    for (Index o = 0; o < std::ssize(d_bias); ++o)
      d_bias[static_cast<std::size_t>(o)] += d_y.eigen().col(o).sum();
    return;
  }
  if (!d_bias.empty()) {
    constexpr Index lanes = simd::kLanes<T>;
    context.executor.for_each(detail::ceil_div(d_y.cols(), lanes), [&](Index group, Index) {
      const Index o = group * lanes, n = (std::min)(lanes, d_y.cols() - o);
      simd::Vec<T> sum{};
      for (Index r = 0; r < d_y.rows(); ++r) sum += detail::load_n(d_y.row(r) + o, n);
      T* to = d_bias.data() + o;
      detail::store_n(to, detail::load_n(to, n) + sum, n);
    });
  }
  if (d_weight.rows() == 0 || d_weight.cols() == 0) return;
  detail::multiply_backward<T>(
      d_weight, x.rows(), Accumulate::yes, context,
      [&](Interval rows, const detail::TileSplit& split, Index packed_size, T* packed) {
        detail::pack_columns(d_y.middle_cols(rows.begin, rows.size()), split, packed_size, packed,
                             context);
      },
      [&](Interval rows, Index column, T* to) { detail::copy_block(x, rows, column, to); });
}

CASA_NAMESPACE_END
