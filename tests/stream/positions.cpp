#include "casa/stream/positions.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace casa;

namespace {

// Positions of: text, image of 3, text, text, image of 2, image of 1, text.
std::vector<Position> positions(ImageRope rope, ImageGrid grid = {}) {
  PositionCounter counter(rope);
  std::vector<Position> p(10);
  const std::span all(p);
  counter.text(all.subspan(0, 1));
  counter.image(grid, all.subspan(1, 3));
  counter.text(all.subspan(4, 2));
  counter.image({}, all.subspan(6, 2));
  counter.image({}, all.subspan(8, 1));
  counter.text(all.subspan(9, 1));
  return p;
}

std::vector<Position> of(std::initializer_list<std::int64_t> t) { return {t.begin(), t.end()}; }

}  // namespace

TEST_CASE("image tokens stand where image_rope says, text counts text") {
  CHECK(positions(ImageRope::window_start) == of({0, 1, 1, 1, 1, 2, 3, 3, 3, 3}));
  CHECK(positions(ImageRope::none) == of({0, 0, 0, 0, 1, 2, 0, 0, 0, 3}));
  CHECK(positions(ImageRope::consecutive) == of({0, 1, 2, 3, 4, 5, 3, 4, 5, 6}));
  CHECK(positions(ImageRope::stream) == of({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST_CASE("images with rows and columns stand on three axes") {
  const ImageGrid row{1, 3};
  const auto p = positions(ImageRope::window_start, row);
  CHECK(p[1] == Position{1, 1, 1});
  CHECK(p[2] == Position{1, 1, 2});
  CHECK(p[3] == Position{1, 1, 3});
  CHECK(p[4] == Position{1});
  const auto s = positions(ImageRope::stream, {3, 1});
  CHECK(s[3] == Position{1, 3, 1});
  CHECK(s[4] == Position{4});  // one beyond the farthest axis: 1 + max(3, 1)
  const auto wide = positions(ImageRope::stream, {1, 3});  // Fault: rows alone move what follows
  CHECK(wide[3] == Position{1, 1, 3});
  CHECK(wide[4] == Position{4});
}

TEST_CASE("a counter goes on from where it was saved, at any height") {
  for (const std::int64_t start : {std::int64_t{0}, (std::int64_t{1} << 24) - 2,
                                   (std::int64_t{1} << 31) - 2, (std::int64_t{1} << 32) - 2}) {
    PositionCounter counter(ImageRope::consecutive);
    counter.restore({start, start, 0, true});
    std::vector<Position> p(4);
    counter.text(std::span(p).first(1));
    counter.image({}, std::span(p).subspan(1, 2));
    PositionCounter other(ImageRope::consecutive);
    other.restore(counter.state());
    other.text(std::span(p).last(1));
    CHECK(p == of({start, start + 1, start + 2, start + 3}));
    CHECK(other.next_text() == start + 2);
    CHECK(other.next_stream() == start + 4);
  }
}
