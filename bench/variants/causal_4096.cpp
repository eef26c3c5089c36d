// causal_4096: causal over twice as many tokens, where what is not arithmetic weighs less.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant causal_4096("causal_4096", [] {
  return bench::plain({.mask = casa::masks::causal(4096), .keys = 4096});
});
