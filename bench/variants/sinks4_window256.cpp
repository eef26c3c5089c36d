// sinks4_window256: a sliding window of 256, and the first 4 tokens always ("attention sinks").
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant sinks4_window256("sinks4_window256", [] {
  return bench::plain({.mask = casa::masks::sinks_window(2048, 4, 256)});
});
