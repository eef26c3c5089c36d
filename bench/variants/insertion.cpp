// insertion: the stream of `casa` as one causal sequence, where image tokens are queries as well.
#include "variant.hpp"

static const bench::Variant insertion("insertion", [] {
  bench::Attention a{.keys = 8 * (256 + 20)};
  for (casa::Index r = 0; r < a.keys; ++r) a.add_row({{0, r + 1}});
  return bench::plain(a);
});
