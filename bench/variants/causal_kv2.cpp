// causal_kv2: causal, and 8 query heads share each of 2 key/value heads (grouped-query attention):
// a quarter of the cache.
#include "variant.hpp"

static const bench::Variant causal_kv2("causal_kv2", [] {
  bench::Attention a{.num_kv_heads = 2};
  for (casa::Index r = 0; r < a.keys; ++r) a.add_row({{0, r + 1}});
  return bench::plain(a);
});
