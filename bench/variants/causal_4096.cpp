// causal_4096: causal over twice as many tokens, where what is not arithmetic weighs less.
#include "variant.hpp"

static const bench::Variant causal_4096("causal_4096", [] {
  bench::Attention a{.keys = 4096};
  for (casa::Index r = 0; r < a.keys; ++r) a.add_row({{0, r + 1}});
  return bench::plain(a);
});
