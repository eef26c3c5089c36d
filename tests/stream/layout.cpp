#include "casa/stream/layout.hpp"

#include <doctest/doctest.h>

#include "random_stream.hpp"

using namespace casa;

TEST_CASE("a layout is the stream written out token by token") {
  for (unsigned seed = 0; seed < 500; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto stream = stream_test::random_stream(random);
    const StreamLayout layout(stream.text_len, stream.insertions);
    const auto tokens = stream_test::write_out(stream);
    REQUIRE(layout.stream_len() == static_cast<Index>(tokens.size()));
    CHECK(layout.text_len() == stream.text_len);
    for (std::size_t place = 0; place < tokens.size(); ++place) {
      const auto& [image, number, window] = tokens[place];
      const Index w = image ? layout.window_of_image(number) : layout.window_of_text(number);
      CHECK(w == window);
      const Window& at = layout.window(w);
      CHECK((image ? image_place(at, number) : text_place(at, number)) ==
            static_cast<Index>(place));
      CHECK((image ? at.image : at.text).contains(number));
    }
    std::vector<stream_test::Token> pieces;
    for_each_piece(layout, 0, 0, [&](bool image, Interval piece) {
      CHECK(piece.size() > 0);
      for (Index i = piece.begin; i < piece.end; ++i) pieces.push_back({image, i, 0});
    });
    REQUIRE(pieces.size() == tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      CHECK(pieces[i].image == tokens[i].image);
      CHECK(pieces[i].number == tokens[i].number);
    }
  }
}

TEST_CASE("windows tile text and images, and every insertion point starts one") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto stream = stream_test::random_stream(random);
    const StreamLayout layout(stream.text_len, stream.insertions);
    Index text = 0, image = 0;
    for (const Window& w : layout.windows()) {
      CHECK(w.text.begin == text);
      CHECK(w.image.begin == image);
      text = w.text.end;
      image = w.image.end;
    }
    CHECK(text == layout.text_len());
    CHECK(image == layout.image_len());
    CHECK(layout.window(0).image.size() == 0);
    std::vector<Index> points;
    for (const Insertion& i : stream.insertions) points.push_back(i.position);
    points.erase(std::unique(points.begin(), points.end()), points.end());
    REQUIRE(layout.windows().size() == points.size() + 1);
    for (std::size_t i = 0; i < points.size(); ++i)
      CHECK(layout.windows()[i + 1].text.begin == points[i]);
  }
}

TEST_CASE("a stream appended piece by piece is the stream made at once") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto stream = stream_test::random_stream(random);
    StreamLayout layout;
    std::size_t next = 0;
    for (Index i = 0; i <= stream.text_len; ++i) {
      for (; next < stream.insertions.size() && stream.insertions[next].position == i; ++next)
        layout.append_image(stream.insertions[next].num_tokens);
      if (i < stream.text_len) layout.append_text(1);
    }
    CHECK(layout == StreamLayout(stream.text_len, stream.insertions));
    layout.clear();
    CHECK(layout == StreamLayout());
  }
}

TEST_CASE("an insertion that does not fit is named, and nothing has changed") {
  const std::vector<Insertion> behind{{4, 1}}, unsorted{{2, 1}, {1, 1}}, negative{{0, -1}};
  CHECK_THROWS_WITH_AS(
      StreamLayout(3, behind),
      "StreamLayout: insertion position 4 must be in [0, 3] (sorted, inside the text)", error);
  CHECK_THROWS_AS(StreamLayout(3, unsorted), error);
  CHECK_THROWS_WITH_AS(StreamLayout(3, negative),
                       "StreamLayout: num_tokens must not be negative, got -1", error);
  CHECK_THROWS_AS(StreamLayout(-1), error);
  StreamLayout layout(3);
  const StreamLayout before = layout;
  CHECK_THROWS_AS(layout.append(2, behind), error);
  CHECK(layout == before);
}
