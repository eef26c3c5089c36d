// causal_kv2: causal, where 8 query heads share each of 2 key/value heads (grouped-query
// attention): a quarter of the cache.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant causal_kv2("causal_kv2", [] {
  return bench::plain({.mask = casa::masks::causal(2048), .num_kv_heads = 2});
});
