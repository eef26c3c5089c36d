// causal_bf16: causal over keys and values stored in bfloat16 (half of the cache), which are
// widened and computed with in float.
#include "variant.hpp"

static const bench::Variant causal_bf16("causal_bf16", [] {
  bench::Attention a;
  for (casa::Index r = 0; r < a.keys; ++r) a.add_row({{0, r + 1}});
  return bench::plain(a, bench::Stored::bfloat16);
});
