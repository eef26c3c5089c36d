#include "casa/image/embedding_cache.hpp"

#include <doctest/doctest.h>

#include <deque>
#include <random>

#include "support/messages.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa::io;
using casa_test::same_bits;

namespace {

Image noise(std::mt19937_64& rng, Index height, Index width) {
  Image image(height, width);
  for (Index i = 0; i < image.size(); ++i) image.data()[i] = static_cast<std::uint8_t>(rng());
  return image;
}
ImageView view(const Image& i) { return {i.data(), i.height(), i.width(), 3 * i.width()}; }
EncodedImage<float> tokens(std::mt19937_64& rng, Index count) {
  return {casa_test::random_matrix<float>(rng, count, 8), {count, 1}};
}
bool same_pixels(const Image& a, const Image& b) {
  return a.height() == b.height() && a.width() == b.width() &&
         std::equal(a.data(), a.data() + a.size(), b.data());
}

}  // namespace

TEST_CASE("a picture is found by all of its pixels and its size") {
  std::mt19937_64 rng(1);
  EmbeddingCache<float> cache(1 << 20);
  const Image picture = noise(rng, 6, 4);
  const EncodedImage<float> encoded = tokens(rng, 3);
  CHECK(cache.find(view(picture)) == nullptr);
  cache.add(view(picture), encoded);
  for (Index i = 0; i < picture.size(); ++i) {
    Image other = picture;
    other.data()[i] ^= 1;
    CHECK(cache.find(view(other)) == nullptr);
  }
  CHECK(cache.find({picture.data(), 4, 6, 18}) == nullptr);
  CHECK(cache.find({picture.data(), 5, 4, 12}) == nullptr);
  const EncodedImage<float>* found = cache.find(view(picture));
  REQUIRE(found != nullptr);
  CHECK(same_bits(found->tokens, encoded.tokens));
  CHECK(found->grid.rows == 3);
  // Wherever it lies.
  Image wide = noise(rng, 6, 9);
  for (Index y = 0; y < 6; ++y) std::copy_n(picture.row(y), 12, wide.row(y) + 15);
  CHECK(cache.find({wide.data() + 15, 6, 4, 27}) != nullptr);
  CHECK(cache.counts().hits == 2);
  CHECK(cache.counts().misses == picture.size() + 3);
}

TEST_CASE("pictures asked for least recently make room, and the bound holds") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed);
    const Index most = std::uniform_int_distribution<Index>(0, 2000)(rng);
    EmbeddingCache<float> cache(most);
    std::vector<Image> pictures;
    for (Index i = 0; i < 8; ++i) pictures.push_back(noise(rng, 1 + i, 5));
    struct Held {
      const Image* picture;
      EncodedImage<float> encoded;
      Index bytes;
    };
    std::deque<Held> held;  // the one asked for last at the end
    std::int64_t dropped = 0;
    for (int step = 0; step < 200; ++step) {
      const Image& p = pictures[rng() % pictures.size()];
      const auto* found = cache.find(view(p));
      const auto at = std::find_if(held.begin(), held.end(),
                                   [&](const Held& h) { return same_pixels(*h.picture, p); });
      REQUIRE((found != nullptr) == (at != held.end()));
      if (found) {
        CHECK(same_bits(found->tokens, at->encoded.tokens));
        held.push_back(*at);
        held.erase(
            std::find_if(held.begin(), held.end(), [&](const Held& h) { return h.picture == &p; }));
      } else {
        const EncodedImage<float> made = tokens(rng, 1 + static_cast<Index>(rng() % 10));
        cache.add(view(p), made);
        const Index bytes = p.size() + made.tokens.size() * 4;
        if (bytes <= most) held.push_back({&p, made, bytes});
        const auto sum = [&] {
          Index all = 0;
          for (const Held& h : held) all += h.bytes;
          return all;
        };
        for (; sum() > most; ++dropped) held.pop_front();
        CHECK(cache.counts().bytes == sum());
        CHECK(cache.counts().bytes <= most);
      }
      CHECK(cache.counts().pictures == std::ssize(held));
      CHECK(cache.counts().dropped == dropped);
    }
    cache.clear();
    CHECK(cache.counts().bytes == 0);
    CHECK(cache.find(view(pictures[0])) == nullptr);
  }
  CHECK(has(message_of([] { EmbeddingCache<float> none(-1); }), "must not be negative, got -1"));
}
