// The gradient of rotary position embedding: rotated back.
#pragma once

#include "casa/layers/rope.hpp"

CASA_NAMESPACE_BEGIN

/// The transpose of apply_rope(), in place: d (rows x num_heads * head_dim) holds the gradient of
/// what it gave, and then that of what it was given. Pair (a, b) becomes (a cos + b sin, b cos - a
/// sin), where cos and sin contain Rope::magnitude: a factor of the forward pass is one of the
/// backward pass, too. Throws casa::error where apply_rope() would.
template <Scalar T>
void apply_rope_backward(MatrixView<T> d, const RopeTable<T>& table, Index head_dim,
                         const Context& context, Index first_row = 0) {
  require(head_dim > 0 && d.cols() % head_dim == 0, "apply_rope_backward: ", d.cols(),
          " columns are not heads of ", head_dim);
  require(table.rotary_dim() <= head_dim, "apply_rope_backward: rotary_dim ", table.rotary_dim(),
          " exceeds head_dim ", head_dim);
  require(first_row >= 0 && d.rows() <= table.rows() - first_row, "apply_rope_backward: rows [",
          first_row, ", ", first_row + d.rows(), ") of a table of ", table.rows());
  require_memory("apply_rope_backward: d", d);
  if (context.path == Path::naive) {
    const bool half = table.style() == RopeStyle::half;
    for (Index r = 0; r < d.rows(); ++r)
      for (Index head = 0; head < d.cols(); head += head_dim)
        for (Index i = 0; i < table.num_pairs(); ++i) {
          T& a = d(r, head + (half ? i : 2 * i));
          T& b = d(r, head + (half ? i + table.num_pairs() : 2 * i + 1));
          const T c = table.cos(first_row + r, i), s = table.sin(first_row + r, i);
          const T back = a * c + b * s;
          b = b * c - a * s;
          a = back;
        }
    return;
  }
  context.executor.for_each(
      d.rows(),
      [&](Index r, Index) {
        for (Index head = 0; head < d.cols(); head += head_dim)
          table.rotate_backward(first_row + r, d.row(r) + head);
      },
      8);
}

CASA_NAMESPACE_END
