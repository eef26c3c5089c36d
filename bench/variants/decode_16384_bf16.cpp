// decode_16384_bf16: one token over a cache of 16,384 keys stored in bfloat16, 64 MiB.
#include "variant.hpp"

static const bench::Variant decode_16384_bf16("decode_16384_bf16", [] {
  bench::Attention a{.keys = 16384};
  a.add_row({{0, a.keys}});
  return bench::plain(a, bench::Stored::bfloat16);
});
