// The first tokens of a stream in the self-attention of a block, where positions restart: their
// keys as they were before rotation, so that however often they are turned, they are turned once.
#pragma once

#include <algorithm>
#include <variant>

#include "casa/core/workspace.hpp"
#include "casa/layers/rope.hpp"
#include "casa/model/kv_cache.hpp"

CASA_NAMESPACE_BEGIN

/// Notes the keys among k (tokens x num_kv_heads * head_dim, not rotated yet, next to be appended
/// to `cache`) that belong to the first sink_keys.rows() tokens of the stream. Throws casa::error
/// where their sizes differ.
template <Scalar T>
void note_sinks(const AnyKvCache<T>& cache, MatrixView<const T> k, Matrix<T>& sink_keys) {
  const Index held = std::visit([](const auto& c) { return c.size(); }, cache);
  const Index count = (std::min)(k.rows(), sink_keys.rows() - held);
  if (count <= 0) return;
  require_equal("note_sinks: columns of k", k.cols(), sink_keys.cols());
  require_memory("note_sinks: k", k);
  for (Index r = 0; r < count; ++r) std::copy_n(k.row(r), k.cols(), sink_keys.row(held + r));
}

/// The keys of the first tokens of `cache`, rotated anew from the noted ones: token j by row j of
/// the table (sink_keys.rows() rows or more).
template <Scalar T>
void turn_sinks(AnyKvCache<T>& cache, const Matrix<T>& sink_keys, const RopeTable<T>& table,
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

CASA_NAMESPACE_END
