// insertion: the stream of `casa` as one causal sequence, where image tokens are queries as well.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant insertion("insertion", [] {
  constexpr casa::Index tokens = 8 * (256 + 20);
  return bench::plain({.mask = casa::masks::causal(tokens), .keys = tokens});
});
