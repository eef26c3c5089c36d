// global4_window256: a causal window of 256, and 4 global tokens, one in each 512, that all later
// tokens see and that see all before them (Longformer).
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant global4_window256("global4_window256", [] {
  const std::vector<casa::Index> global = {0, 512, 1024, 1536};
  return bench::plain({.mask = casa::masks::global_window(2048, 2048, 256, global,
                                                          casa::masks::Direction::causal)});
});
