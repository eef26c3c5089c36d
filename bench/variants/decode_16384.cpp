// decode_16384: one token over a cache of 16,384 float keys, 128 MiB: more than caches hold.
#include "variant.hpp"

static const bench::Variant decode_16384("decode_16384", [] {
  bench::Attention a{.keys = 16384};
  a.add_row({{0, a.keys}});
  return bench::plain(a);
});
