// frames: 8 sequences of 256 tokens side by side, each causal by itself: windows of a stream where
// image tokens (240 of a window) are queries as text tokens (16) are.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant frames("frames", [] {
  return bench::plain(
      {.mask = casa::masks::packed_documents(2048, std::vector<casa::Index>(8, 256))});
});
