// Attention sinks where positions restart (StateOptions::horizon): their keys are kept unrotated,
// and the keys in the cache are made from those at every restart. Rotating the cached keys further
// would add a rounding each time.
#pragma once

#include <algorithm>
#include <variant>

#include "casa/core/workspace.hpp"
#include "casa/layers/rope.hpp"
#include "casa/model/kv_cache.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Stores those rows of k that are among the first sink_keys.rows() tokens of the stream. k (tokens
/// x num_kv_heads * head_dim) is not rotated yet and is next to be appended to `cache`. Throws
/// casa::error where columns differ.
template <Scalar T>
void store_sink_keys(const AnyKvCache<T>& cache, MatrixView<const T> k, Matrix<T>& sink_keys) {
  const Index held = std::visit([](const auto& c) { return c.size(); }, cache);
  const Index count = (std::min)(k.rows(), sink_keys.rows() - held);
  if (count <= 0) return;
  require_equal("store_sink_keys: columns of k", k.cols(), sink_keys.cols());
  require_memory("store_sink_keys: k", k);
  for (Index r = 0; r < count; ++r) std::copy_n(k.row(r), k.cols(), sink_keys.row(held + r));
}

/// Replaces the keys of the first tokens of `cache` by the stored ones, token j rotated by row j of
/// the table (sink_keys.rows() rows or more).
template <Scalar T>
void rotate_sink_keys(AnyKvCache<T>& cache, const Matrix<T>& sink_keys, const RopeTable<T>& table,
                      const Context& context) {
  std::visit(
      [&](auto& c) {
        const Index count = (std::min)(c.size(), sink_keys.rows());
        if (count == 0) return;
        const Workspace::Frame frame(context.workspace);
        const MatrixView<T> k = context.workspace.template matrix<T>(count, sink_keys.cols());
        std::copy_n(sink_keys.data(), k.rows() * k.cols(), k.data());
        apply_rope(k, table, c.head_dim(), context);
        c.replace_keys(MatrixView<const T>(k));
      },
      cache);
}

}  // namespace detail

CASA_NAMESPACE_END
