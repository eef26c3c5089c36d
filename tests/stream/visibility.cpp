#include "casa/stream/visibility.hpp"

#include <doctest/doctest.h>

#include "random_stream.hpp"

using namespace casa;

namespace {

// Whether `row` sees `key`, both places of the merged stream, by the words of the definition.
bool sees(const std::vector<stream_test::Token>& tokens, std::size_t row, std::size_t key,
          Keys keys, History history) {
  const auto &r = tokens[row], &k = tokens[key];
  if (keys == Keys::text && k.image) return false;
  if (keys == Keys::image && !k.image) return false;
  if (history.rule == History::Rule::last && k.window <= r.window - history.count) return false;
  if (k.window > r.window) return false;
  return key <= row;  // images of a window stand before its text
}

}  // namespace

TEST_CASE("every variant is one interval of its order of keys") {
  for (unsigned seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto stream = stream_test::random_stream(random);
    const StreamLayout layout(stream.text_len, stream.insertions);
    const auto tokens = stream_test::write_out(stream);
    for (const Keys keys : {Keys::text, Keys::image, Keys::image_text}) {
      for (const History history :
           {History::window, History::last(2), History::last(4), History::all}) {
        std::vector<std::size_t> order;  // places of the keys, in their order
        for (std::size_t place = 0; place < tokens.size(); ++place)
          if (keys == Keys::image_text || tokens[place].image == (keys == Keys::image))
            order.push_back(place);
        REQUIRE(num_keys(layout, keys) == static_cast<Index>(order.size()));

        std::vector<Interval> text(static_cast<std::size_t>(layout.text_len()));
        std::vector<Interval> image(static_cast<std::size_t>(layout.image_len()));
        text_intervals(layout, {0, layout.text_len()}, keys, history, text);
        image_intervals(layout, {0, layout.image_len()}, keys, history, image);
        for (std::size_t row = 0; row < tokens.size(); ++row) {
          if (tokens[row].image && keys == Keys::text) continue;
          const auto number = static_cast<std::size_t>(tokens[row].number);
          const Interval seen = tokens[row].image ? image[number] : text[number];
          for (std::size_t key = 0; key < order.size(); ++key)
            CHECK(seen.contains(static_cast<Index>(key)) ==
                  sees(tokens, row, order[key], keys, history));
        }
      }
    }
  }
}

TEST_CASE("a part of the rows has the intervals of those rows") {
  std::mt19937 random(7);
  const auto stream = stream_test::random_stream(random, 40);
  const StreamLayout layout(stream.text_len, stream.insertions);
  std::vector<Interval> all(static_cast<std::size_t>(layout.text_len()));
  text_intervals(layout, {0, layout.text_len()}, Keys::image_text, History::window, all);
  for (Index begin = 0; begin <= layout.text_len(); ++begin) {
    for (Index end = begin; end <= layout.text_len(); ++end) {
      std::vector<Interval> part(static_cast<std::size_t>(end - begin));
      text_intervals(layout, {begin, end}, Keys::image_text, History::window, part);
      CHECK(std::equal(part.begin(), part.end(), all.begin() + begin));
    }
  }
  CHECK_THROWS_AS(text_intervals(layout, {0, layout.text_len() + 1}, Keys::text, History::all, all),
                  error);
}
