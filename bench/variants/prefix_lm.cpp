// prefix_lm: the first 512 tokens (a prompt, an image) see one another in both directions, those
// behind them are causal.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant prefix_lm("prefix_lm", [] {
  return bench::plain({.mask = casa::masks::prefix_lm(2048, 512)});
});
