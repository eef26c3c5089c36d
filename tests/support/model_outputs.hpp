// What a float model makes of given tokens and of a picture of noise, to compare models by.
#pragma once

#include <random>
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "support/random_matrix.hpp"

namespace casa_test {

/// The logits of five tokens.
template <class T>
casa::Matrix<T> logits(const casa::io::Model<T>& m) {
  const std::vector<int> ids = {5, 90, 17, 3, 41};
  return m.decoder.logits(ids, {}, {});
}
/// What the tower makes of noise; nothing without a tower.
inline casa::Matrix<float> seen(const casa::io::Model<float>& m) {
  if (!m.vision_tower) return {};
  const auto& c = m.vision_tower->config();
  const casa::VisionGrid grid{1, 2 * c.spatial_merge_size, 4 * c.spatial_merge_size};
  std::mt19937_64 rng(3);
  const auto patches = random_matrix<float>(rng, grid.h * grid.w, c.patch_width());
  casa::Matrix<float> tokens(patches.rows() / c.merge_unit(), c.out_hidden_size);
  casa::VisionTower<float>::Scratch scratch;
  const casa::Context context;
  m.vision_tower->encode(patches, {&grid, 1}, tokens, scratch, context);
  return tokens;
}

}  // namespace casa_test
