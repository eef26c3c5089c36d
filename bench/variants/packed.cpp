// packed: documents of many lengths, 16 to 512 tokens, in one batch without padding; each is causal
// by itself.
#include <algorithm>
#include <random>

#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant packed("packed", [] {
  std::mt19937 random(1);
  std::vector<casa::Index> lengths;
  for (casa::Index left = 2048; left > 0; left -= lengths.back())
    lengths.push_back((std::min)(left, 16 + static_cast<casa::Index>(random() % 497)));
  return bench::plain({.mask = casa::masks::packed_documents(2048, lengths)});
});
