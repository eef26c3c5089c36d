// alibi: causal, and a score loses slope * distance, with a slope for each head: 2^-0.5, 2^-1, ...
// 2^-8 (ALiBi, arXiv 2108.12409).
#include <cmath>

#include "casa/attention/masks.hpp"
#include "scored.hpp"

static const bench::Variant alibi("alibi", [] {
  static const std::vector<float> slopes = [] {
    std::vector<float> s;
    for (int h = 1; h <= 16; ++h) s.push_back(std::exp2(-0.5f * static_cast<float>(h)));
    return s;
  }();
  return bench::scored({.mask = casa::masks::causal(2048), .added_score = 2048 * 0.71},
                       casa::Alibi<float>{slopes});
});
