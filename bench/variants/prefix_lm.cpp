// prefix_lm: the first 512 tokens (a prompt, an image) see one another in both directions, those
// behind them are causal.
//
//   x x
//   x x
//   x x x
//   x x x x
#include <algorithm>

#include "variant.hpp"

static const bench::Variant prefix_lm("prefix_lm", [] {
  bench::Attention a;
  for (casa::Index r = 0; r < a.keys; ++r) a.add_row({{0, (std::max)(casa::Index{512}, r + 1)}});
  return bench::plain(a);
});
