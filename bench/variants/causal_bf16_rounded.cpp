// causal_bf16_rounded: as causal_bf16, with Precision::storage: queries and weights are rounded to
// bfloat16 as well, so that the machine's bfloat16 products can be used (beyond the peak of float).
#include "variant.hpp"

static const bench::Variant causal_bf16_rounded("causal_bf16_rounded", [] {
  bench::Attention a{.precision = casa::Precision::storage};
  for (casa::Index r = 0; r < a.keys; ++r) a.add_row({{0, r + 1}});
  return bench::plain(a, bench::Stored::bfloat16);
});
