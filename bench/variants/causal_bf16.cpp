// causal_bf16: causal over keys and values stored in bfloat16 (half of the cache), which are
// widened and computed with in float.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant causal_bf16("causal_bf16", [] {
  return bench::plain({.mask = casa::masks::causal(2048)}, bench::Stored::bfloat16);
});
