// Keys and values of the block of an image encoder that is being computed.
#pragma once

#include "casa/core/context.hpp"
#include "casa/model/block_pass.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Makes `cache` empty, with room for `rows` rows of so many heads. One cache serves all blocks in
/// turn, since no block needs another's keys. Where products may round, floats are kept as
/// bfloat16, so that attention is computed in what the machine multiplies faster.
template <Scalar T>
void prepare_cache(BlockCache<T>& cache, Index num_heads, Index head_dim, Index rows,
                   const Context& context) {
  const bool narrow = std::same_as<T, float> && context.precision != Precision::full;
  const auto fits = [&]<class S>(const KvCache<S>& c) {
    return std::same_as<S, T> != narrow && c.num_kv_heads() == num_heads &&
           c.head_dim() == head_dim;
  };
  if (!std::visit(fits, cache.self))
    cache.self =
        make_cache<T>(narrow ? CacheType::bfloat16 : CacheType::native, num_heads, head_dim);
  std::visit(
      [&](auto& c) {
        c.clear();
        c.reserve(rows);
      },
      cache.self);
}

}  // namespace detail

CASA_NAMESPACE_END
