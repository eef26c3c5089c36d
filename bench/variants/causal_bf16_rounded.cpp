// causal_bf16_rounded: as causal_bf16, with Precision::storage: queries and weights are rounded to
// bfloat16 as well, so that the machine's bfloat16 products can be used (beyond the peak of float).
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant causal_bf16_rounded("causal_bf16_rounded", [] {
  return bench::plain({.mask = casa::masks::causal(2048), .precision = casa::Precision::storage},
                      bench::Stored::bfloat16);
});
