// What the functions of stream/ demand, and that they say so and change nothing.
#include <doctest/doctest.h>

#include <limits>
#include <vector>

#include "casa/stream/layout.hpp"
#include "casa/stream/positions.hpp"
#include "casa/stream/visibility.hpp"
#include "support/messages.hpp"

using namespace casa;

TEST_CASE("StreamLayout refuses what is no stream, and stays as it was") {
  const std::vector<Insertion> given = {{2, 3}, {5, 1}};
  StreamLayout layout(6, given);
  const StreamLayout before = layout;
  constexpr Index most = std::numeric_limits<Index>::max();

  const auto append = [&](Index text, std::vector<Insertion> insertions) {
    return message_of([&] { layout.append(text, insertions); });
  };
  CHECK(append(-1, {}) == "StreamLayout: text_len must not be negative, got -1");
  CHECK(append(3, {{4, 1}}) ==
        "StreamLayout: insertion position 4 must be in [0, 3] (sorted, inside the text)");
  CHECK(append(3, {{2, 1}, {1, 1}}) ==
        "StreamLayout: insertion position 1 must be in [2, 3] (sorted, inside the text)");
  CHECK(append(3, {{-1, 1}}) ==
        "StreamLayout: insertion position -1 must be in [0, 3] (sorted, inside the text)");
  CHECK(append(3, {{1, -1}}) == "StreamLayout: num_tokens must not be negative, got -1");
  CHECK(has(append(most, {}), "StreamLayout: tokens: size overflows"));
  CHECK(has(append(1, {{0, 1}, {1, most - 5}}), "StreamLayout: tokens: size overflows"));
  CHECK(layout == before);

  CHECK(message_of([&] { layout.append_image(-1); }) ==
        "StreamLayout: num_tokens must not be negative, got -1");
  CHECK(has(message_of([&] { layout.append_image(most); }), "size overflows"));
  CHECK(message_of([&] { layout.append_text(-1); }) ==
        "StreamLayout: count must not be negative, got -1");
  CHECK(has(message_of([&] { layout.append_text(most - 9); }), "size overflows"));
  CHECK(layout == before);

  for (const Index i : {Index{-1}, Index{6}, most})
    CHECK(message_of([&] { (void)layout.window_of_text(i); }) ==
          text("StreamLayout: text token ", i, " of 6"));
  for (const Index j : {Index{-1}, Index{4}, most})
    CHECK(message_of([&] { (void)layout.window_of_image(j); }) ==
          text("StreamLayout: image token ", j, " of 4"));
  for (const Index w : {Index{-1}, Index{3}, most})
    CHECK(message_of([&] { (void)layout.window(w); }) == text("StreamLayout: window ", w, " of 3"));
  CHECK(layout.window(2).image == Interval{3, 4});
}

TEST_CASE("intervals are asked for rows that there are, into as much room") {
  const std::vector<Insertion> given = {{2, 3}};
  const StreamLayout layout(6, given);
  const auto of_text = [&](Interval rows, std::size_t room) {
    std::vector<Interval> out(room);
    return message_of([&] { text_intervals(layout, rows, Keys::text, History::all, out); });
  };
  const auto of_image = [&](Interval rows, std::size_t room) {
    std::vector<Interval> out(room);
    return message_of([&] { image_intervals(layout, rows, Keys::image, History::all, out); });
  };
  CHECK(of_text({-1, 2}, 3) == "text_intervals: rows [-1, 2) outside the text of 6 tokens");
  CHECK(of_text({3, 7}, 4) == "text_intervals: rows [3, 7) outside the text of 6 tokens");
  CHECK(of_text({3, 6}, 2) == "text_intervals: out.size(): expected 3, got 2");
  CHECK(of_image({0, 4}, 4) == "image_intervals: rows [0, 4) outside the 3 image tokens");
  CHECK(of_image({0, 3}, 4) == "image_intervals: out.size(): expected 3, got 4");
  const auto with = [&](History history) {
    return message_of([&] { text_intervals(layout, {0, 0}, Keys::text, history, {}); });
  };
  CHECK(with(History::every(2)) ==
        "text_intervals: with History::every a row sees several intervals: use masks::stream");
  CHECK(with(History::last(0)) == "text_intervals: count of History::last must be positive, got 0");
  CHECK(with(History::every(-1)) ==
        "text_intervals: count of History::every must be positive, got -1");
  CHECK(of_text({6, 6}, 0).empty());  // no rows: nothing to do
  CHECK(of_image({3, 3}, 0).empty());
  CHECK(of_text({0, 6}, 6).empty());
  CHECK(of_image({0, 3}, 3).empty());
}

TEST_CASE("PositionCounter refuses grids of another size and negative counters") {
  PositionCounter counter(ImageRope::stream);
  std::vector<Position> out(6);
  counter.text(out);
  const auto before = counter.state();
  for (const ImageGrid grid : {ImageGrid{2, 2}, ImageGrid{6, 0}, ImageGrid{0, 6}, ImageGrid{7, 1}})
    CHECK(message_of([&] { counter.image(grid, out); }) ==
          text("PositionCounter: rows * cols of a grid: expected 6, got ", grid.rows * grid.cols));
  CHECK(has(message_of([&] { counter.image({-2, -3}, out); }), "PositionCounter: grid"));
  for (const PositionCounter::State bad :
       {PositionCounter::State{-1, 0, 0}, {0, -1, 0}, {0, 0, -1}})
    CHECK(has(message_of([&] { counter.restore(bad); }),
              "PositionCounter: counters must not be negative"));
  CHECK(counter.state() == before);
  CHECK(message_of([&] { counter.image({2, 3}, out); }).empty());
}
