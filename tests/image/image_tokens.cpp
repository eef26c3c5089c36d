#include "casa/image/image_tokens.hpp"

#include <doctest/doctest.h>

#include <deque>
#include <random>

#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa::io;
using casa_test::random_matrix;
using casa_test::same_bits;

namespace {

// A model that has a tower and nothing else: windows of 32 x 32 pixels, block 1 sees the frame.
Model<float> model_with_tower() {
  VisionTowerConfig c;
  c.depth = 2;
  c.hidden_size = 32;
  c.num_heads = 2;
  c.intermediate_size = 40;
  c.out_hidden_size = 16;
  c.patch_size = 4;
  c.window_size = 32;
  c.fullatt_block_indexes = {1};
  std::mt19937_64 rng(3);
  std::deque<Matrix<float>> kept;
  const WeightSource source{[&](const TensorSpec& s) -> StoredView {
    const bool vector = s.cols == 0;
    kept.push_back(
        random_matrix<float>(rng, vector ? 1 : s.rows, vector ? s.rows : s.cols, vector ? 1 : 0.2));
    return kept.back();
  }};
  Model<float> model;
  model.vision_tower.emplace(c, source);
  return model;
}

// 2 x 3 windows of noise, and a square in the first of them.
Image picture(int square) {
  std::mt19937_64 rng(1);
  Image image(64, 96);
  for (Index i = 0; i < image.size(); ++i) image.data()[i] = static_cast<std::uint8_t>(rng());
  for (Index y = 0; y < 8; ++y)
    for (Index x = 0; x < 3 * 8; ++x)
      image.data()[(y * 96 + 3 * square) * 3 + x] = static_cast<std::uint8_t>(200);
  return image;
}

}  // namespace

// Fault: the tower is asked, not what keeps its frames.
TEST_CASE("image encoder: frames that change in part, exactly") {
  const Model<float> model = model_with_tower();
  ImageEncoder<float> plain(model, "none"), reusing(model, "none");
  CHECK(plain.reuse_counts() == nullptr);
  reusing.reuse_patches({});
  for (int square = 0; square < 4; ++square)
    CHECK(same_bits(reusing.encode(picture(square), {}).tokens,
                    plain.encode(picture(square), {}).tokens));
  REQUIRE(reusing.reuse_counts() != nullptr);
  CHECK(reusing.reuse_counts()->patches == 4 * 384);
  CHECK(reusing.reuse_counts()->computed == 384 + 3 * 64);
}

// Fault: approximate tokens are kept for when the picture comes back.
TEST_CASE("image encoder: pictures that come back have the tokens of the picture alone") {
  const Model<float> model = model_with_tower();
  ImageEncoder<float> plain(model, "none"), reusing(model, "none");
  reusing.keep_pictures(Index{1} << 20);
  reusing.reuse_patches({.reuse = PatchReuse::approximate});
  const auto encode = [&](ImageEncoder<float>& e, int square) {
    return e.encode(picture(square), {}).tokens;
  };
  CHECK(same_bits(encode(reusing, 0), encode(plain, 0)));
  CHECK(!same_bits(encode(reusing, 1), encode(plain, 1)));
  CHECK(reusing.cache_counts().pictures == 1);
  CHECK(same_bits(encode(reusing, 0), encode(plain, 0)));
  CHECK(reusing.cache_counts().hits == 1);
}

TEST_CASE("image encoder: a model without a tower has no patches to reuse") {
  Model<float> model;
  model.patch_encoder.emplace();
  ImageEncoder<float> encoder(model, "none");
  CHECK_THROWS_WITH_AS(encoder.reuse_patches({}),
                       "ImageEncoder: patches are reused in vision towers, and the model has none",
                       casa::error);
}
