// soft_cap: causal, and scores s become 50 tanh(s / 50) (Gemma 2).
#include "casa/attention/masks.hpp"
#include "scored.hpp"

static const bench::Variant soft_cap("soft_cap", [] {
  return bench::scored({.mask = casa::masks::causal(2048)}, casa::SoftCap{50});
});
