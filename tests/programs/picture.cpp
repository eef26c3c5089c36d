// Pictures in a model's frame: proportions, padding, and what is left as it is.
#include "read_text/picture.hpp"

#include <doctest/doctest.h>

using namespace read_text;

namespace {

Grey plain(Index height, Index width, std::uint8_t level) {
  Grey g(height, width);
  std::fill_n(g.data(), g.size(), level);
  return g;
}

}  // namespace

TEST_CASE("a picture of the frame's size is left as it is") {
  Grey g = plain(16, 16, 200);
  g(3, 5) = 7;
  const Framed f = in_frame(g, 16);
  CHECK(f.done.empty());
  CHECK(std::equal(g.data(), g.data() + g.size(), f.pixels.data()));
}

TEST_CASE("a smaller picture keeps its pixels, in the middle of its background") {
  Grey g = plain(4, 8, 30);
  g(1, 2) = 250;
  const Framed f = in_frame(g, 16);
  CHECK(f.done == "padded to 16 x 16 with grey 30");
  REQUIRE(f.pixels.rows() == 16);
  REQUIRE(f.pixels.cols() == 16);
  for (Index y = 0; y < 16; ++y)
    for (Index x = 0; x < 16; ++x)
      CHECK(int{f.pixels(y, x)} == (y == 6 + 1 && x == 4 + 2 ? 250 : 30));
}

TEST_CASE("a larger picture is made smaller in its own proportions") {
  // A dark bar over the left half stays over the left half.
  Grey g = plain(64, 128, 240);
  for (Index y = 0; y < 64; ++y) std::fill_n(g.row(y), 60, std::uint8_t{10});
  const Framed f = in_frame(g, 32);
  CHECK(f.done == "made 32 x 16, padded to 32 x 32 with grey 240");
  CHECK(int{f.pixels(0, 0)} == 240);
  CHECK(int{f.pixels(16, 4)} == 10);
  CHECK(int{f.pixels(16, 30)} == 240);
  CHECK(int{f.pixels(31, 4)} == 240);
}

TEST_CASE("a line of one pixel does not vanish") {
  const Framed f = in_frame(plain(1, 1000, 9), 32);
  CHECK(f.done == "made 32 x 1, padded to 32 x 32 with grey 9");
}

TEST_CASE("the background is the grey that half of the pixels do not exceed") {
  Grey g = plain(2, 5, 100);
  g(0, 0) = g(0, 1) = g(0, 2) = g(0, 3) = 0;
  CHECK(int{background(g)} == 100);
}

TEST_CASE("a part that is cropped holds the pixels of its box") {
  Grey g = plain(6, 9, 0);
  for (Index i = 0; i < g.size(); ++i) g.data()[i] = static_cast<std::uint8_t>(i);
  const Box box{2, 3, 5, 8};
  const Grey part = cropped(g, box);
  REQUIRE(part.rows() == 3);
  REQUIRE(part.cols() == 5);
  for (Index y = 0; y < 3; ++y)
    for (Index x = 0; x < 5; ++x) CHECK(int{part(y, x)} == (2 + y) * 9 + 3 + x);
}
