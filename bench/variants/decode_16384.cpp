// decode_16384: one token over a cache of 16,384 float keys, 128 MiB: more than caches hold.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant decode_16384("decode_16384", [] {
  return bench::plain({.mask = casa::masks::causal({16383, 16384}), .keys = 16384});
});
