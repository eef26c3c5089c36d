// blocks64: each block of 64 rows sees a chosen fifth of the blocks of 64 keys before it, and
// itself, causally. (The choice is that of torch.rand(32, 32) < 0.2 with the seed 1.)
#include <random>

#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant blocks64("blocks64", [] {
  std::mt19937 random(1);
  std::vector<std::vector<casa::Index>> chosen(32);
  for (casa::Index row = 0; row < 32; ++row)
    for (casa::Index key = 0; key < 32; ++key) {
      const bool drawn = static_cast<float>(random() & 0xFFFFFF) * 0x1p-24f < 0.2f;
      if (key == row || (drawn && key < row)) chosen[static_cast<std::size_t>(row)].push_back(key);
    }
  return bench::plain(
      {.mask = casa::masks::block_sparse(2048, 2048, 64, chosen, casa::masks::Direction::causal),
       .kept_keys = 2048});
});
