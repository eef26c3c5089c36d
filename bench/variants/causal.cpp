// causal: a token sees itself and all before it.
//
//   x
//   x x
//   x x x
#include "variant.hpp"

static const bench::Variant causal("causal", [] {
  bench::Attention a;
  for (casa::Index r = 0; r < a.keys; ++r) a.add_row({{0, r + 1}});
  return bench::plain(a);
});
