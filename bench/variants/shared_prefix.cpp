// shared_prefix: 8 answers of 64 tokens to one prompt of 1,536: each sees the prompt and itself.
// The prompt is in the cache.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant shared_prefix("shared_prefix", [] {
  const std::vector<casa::Index> answers(8, 64);
  return bench::plain(
      {.mask = casa::masks::shared_prefix({1536, 2048}, 1536, answers), .kept_keys = 2048});
});
