// window256: a token sees itself and the 255 before it (a sliding window).
//
//   x
//   x x
//   . x x
//   . . x x
#include <algorithm>

#include "variant.hpp"

static const bench::Variant window256("window256", [] {
  bench::Attention a;
  for (casa::Index r = 0; r < a.keys; ++r)
    a.add_row({{(std::max)(casa::Index{0}, r - 255), r + 1}});
  return bench::plain(a);
});
