// soft_cap_window256: the soft cap of `soft_cap` in a sliding window of 256 (Gemma 2's local
// layers).
#include "casa/attention/masks.hpp"
#include "scored.hpp"

static const bench::Variant soft_cap_window256("soft_cap_window256", [] {
  return bench::scored({.mask = casa::masks::sliding_window(2048, 256)}, casa::SoftCap{50});
});
