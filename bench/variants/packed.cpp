// packed: documents of many lengths, 16 to 512 tokens, in one batch without padding; each is causal
// by itself.
//
//   x
//   . x
//   . x x
//   . x x x
#include <algorithm>
#include <random>

#include "variant.hpp"

static const bench::Variant packed("packed", [] {
  bench::Attention a;
  std::mt19937 random(1);
  for (casa::Index begin = 0; begin < a.keys;) {
    const casa::Index length = 16 + static_cast<casa::Index>(random() % 497);
    const casa::Index end = (std::min)(a.keys, begin + length);
    for (casa::Index r = begin; r < end; ++r) a.add_row({{begin, r + 1}});
    begin = end;
  }
  return bench::plain(a);
});
