// decode_16384_bf16: one token over a cache of 16,384 keys stored in bfloat16, 64 MiB.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant decode_16384_bf16("decode_16384_bf16", [] {
  return bench::plain({.mask = casa::masks::causal({16383, 16384}), .keys = 16384},
                      bench::Stored::bfloat16);
});
