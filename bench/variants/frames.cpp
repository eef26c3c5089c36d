// frames: 8 sequences of 256 tokens side by side, each causal by itself: windows of a stream where
// image tokens (240 of a window) are queries as text tokens (16) are.
//
//   x
//   x x
//   . . x
//   . . x x
#include "variant.hpp"

static const bench::Variant frames("frames", [] {
  bench::Attention a;
  for (casa::Index r = 0; r < a.keys; ++r) a.add_row({{r - r % 256, r + 1}});
  return bench::plain(a);
});
