// causal: a token sees itself and all before it.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant causal("causal", [] {
  return bench::plain({.mask = casa::masks::causal(2048)});
});
