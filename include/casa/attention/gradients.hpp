// What the backward pass of attention reads and writes, as views of somebody's memory.
#pragma once

#include <span>

#include "casa/attention/input.hpp"

CASA_NAMESPACE_BEGIN

/// What attend() gave for an input, and the gradient of the loss with respect to its output.
template <Scalar T>
struct AttentionResult {
  MatrixView<const T> out;    ///< (rows, num_heads * value_dim), as attend() wrote it
  const T* lse = nullptr;     ///< (rows, num_heads) row-major, as attend() wrote it
  MatrixView<const T> d_out;  ///< (rows, num_heads * value_dim): d loss / d out
};

/// Where the gradients of the keys and values of one KeyPiece go, of as many tokens: where k or v
/// is null, they are not wanted.
template <class T>
using KeyGradients = KeyMemory<T>;

/// Where the gradients of attention go. They are written, not added to what is there; queries that
/// see no key, and keys that no query sees, get zeros.
template <Scalar T>
struct AttentionGradients {
  MatrixView<T> q = {};                        ///< (rows, num_heads * head_dim); null: not wanted
  std::span<const KeyGradients<T>> keys = {};  ///< one for each piece; or none: not wanted
  std::span<T> sinks = {};                     ///< (num_heads); or none: not wanted
};

namespace detail {

/// Throws casa::error unless everything has the size that the input asks for.
template <Scalar T, class S>
void check_gradients(const AttentionInput<T, S>& in, const AttentionResult<T>& result,
                     const AttentionGradients<T>& gradients) {
  const Index rows = in.num_rows();
  const Index columns = checked_mul(in.shape.num_heads, in.shape.output_dim(), "attend_backward");
  const auto check_matrix = [&](const char* what, const auto& m, Index cols) {
    if (m.rows() != rows || (rows > 0 && m.cols() != cols))
      fail(what, ": expected (", rows, ", ", cols, "), got (", m.rows(), ", ", m.cols(), ")");
    require_memory(what, m);
  };
  check_matrix("attend_backward: out", result.out, columns);
  check_matrix("attend_backward: d_out", result.d_out, columns);
  require(rows == 0 || result.lse != nullptr, "attend_backward: lse is null, expected ", rows,
          " rows of ", in.shape.num_heads);
  if (gradients.q.data() != nullptr)
    check_matrix("attend_backward: gradient of q", gradients.q,
                 checked_mul(in.shape.num_heads, in.shape.head_dim, "attend_backward"));
  if (!gradients.keys.empty()) {
    require_equal("attend_backward: gradients of keys (one for each piece)", gradients.keys.size(),
                  in.keys.size());
    for (std::size_t p = 0; p < in.keys.size(); ++p)
      if (gradients.keys[p].count != in.keys[p].count)
        fail("attend_backward: gradients.keys[", p, "].count: expected ", in.keys[p].count,
             ", got ", gradients.keys[p].count);
  }
  if (gradients.sinks.empty()) return;
  require(!in.sinks.empty(), "attend_backward: gradients of sinks, but the input has no sinks");
  require_equal("attend_backward: gradients of sinks (one per head)",
                static_cast<Index>(gradients.sinks.size()), in.shape.num_heads);
}

}  // namespace detail

CASA_NAMESPACE_END
