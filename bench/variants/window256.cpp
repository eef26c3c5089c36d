// window256: a token sees itself and the 255 before it (a sliding window).
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant window256("window256", [] {
  return bench::plain({.mask = casa::masks::sliding_window(2048, 256)});
});
