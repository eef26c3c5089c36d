// Pages cut into tiles: drawn letters, of which it is known where each stands.
#include "read_text/tiles.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include "read_text/grid.hpp"

using namespace read_text;

namespace {

// A typewriter whose letters are blocks, every second one with an ascender, so that small letters
// are 10 pixels high; letters are 7 wide and 2 apart, words 8.
struct Typewriter {
  Grey page;
  std::uint8_t letter;
  struct Letter {
    Index line;
    Box box;
  };
  std::vector<Letter> letters;
  static constexpr Index kHeight = 10, kWidth = 7, kGap = 2, kWord = 8;

  Typewriter(Index height, Index width, std::uint8_t paper, std::uint8_t ink)
      : page(height, width), letter(ink) {
    std::fill_n(page.data(), page.size(), paper);
  }
  void fill(const Box& box) {
    for (Index y = box.top; y < box.bottom; ++y)
      std::fill_n(page.row(y) + box.left, box.width(), letter);
  }
  // Words of so many letters, the baseline below row `top` + kHeight.
  void type(Index line, Index top, Index left, const std::vector<int>& words) {
    for (const int word : words) {
      for (int i = 0; i < word; ++i) {
        const Box box{i % 2 ? top - 5 : top, left, top + kHeight, left + kWidth};
        fill({top, left, top + kHeight, left + kWidth});
        if (i % 2) fill({top - 5, left + 5, top, left + kWidth});
        letters.push_back({line, box});
        left += kWidth + kGap;
      }
      left += kWord - kGap;
    }
  }
};

bool holds(const Box& outer, const Box& inner) {
  return outer.top <= inner.top && outer.left <= inner.left && outer.bottom >= inner.bottom &&
         outer.right >= inner.right;
}

CutOptions same_size() { return {.side = 128, .margin = 4, .x_height = Typewriter::kHeight}; }

// What a reader without faults would say of a piece: one letter for each that stands whole in it.
std::string read_perfectly(const Typewriter& t, const Box& box) {
  std::string s;
  for (std::size_t i = 0; i < t.letters.size(); ++i) {
    if (!holds(box, t.letters[i].box)) continue;
    if (!s.empty() && t.letters[i].box.left - t.letters[i - 1].box.right >= Typewriter::kWord)
      s += ' ';
    s += static_cast<char>('a' + i % 26);
  }
  return s;
}

std::string whole_text(const Typewriter& t) {
  std::string s;
  for (std::size_t i = 0; i < t.letters.size(); ++i) {
    if (i > 0 && t.letters[i].line != t.letters[i - 1].line)
      s += '\n';
    else if (i > 0 && t.letters[i].box.left - t.letters[i - 1].box.right >= Typewriter::kWord)
      s += ' ';
    s += static_cast<char>('a' + i % 26);
  }
  return s;
}

}  // namespace

TEST_CASE("lines are found from top to bottom, with the height of their small letters") {
  for (const bool dark : {false, true}) {
    CAPTURE(dark);
    Typewriter t(200, 300, dark ? 20 : 240, dark ? 230 : 15);
    t.type(0, 20, 30, {3, 4});
    t.type(1, 50, 10, {5, 2, 6});
    t.type(2, 120, 40, {2});
    const auto lines = find_lines(ink(t.page));
    REQUIRE(lines.size() == 3);
    CHECK(lines[0].box == Box{15, 30, 30, 30 + 7 * 9 - 2 + 6});
    CHECK(lines[1].box == Box{45, 10, 60, 10 + 13 * 9 - 2 + 12});
    CHECK(lines[2].box == Box{115, 40, 130, 40 + 2 * 9 - 2});
    for (const Line& line : lines) CHECK(line.x_height == 10);
  }
}

TEST_CASE("a dot above a letter and a line below it are no lines of their own") {
  Typewriter t(120, 200, 255, 0);
  t.type(0, 30, 20, {6});
  t.fill({21, 20, 23, 24});
  t.fill({43, 20, 44, 80});
  t.type(1, 80, 20, {6});
  const auto lines = find_lines(ink(t.page));
  REQUIRE(lines.size() == 2);
  CHECK(lines[0].box.top == 21);
  CHECK(lines[0].box.bottom == 44);
}

TEST_CASE("a shadow over a page is no ink, and neither is an empty page") {
  Typewriter t(256, 400, 255, 0);
  CHECK(find_lines(ink(t.page)).empty());
  for (Index y = 0; y < 256; ++y)
    for (Index x = 0; x < 400; ++x) t.page(y, x) = static_cast<std::uint8_t>(250 - x / 4);
  CHECK(find_lines(ink(t.page)).empty());
  CHECK(cut_into_lines(t.page).tiles.empty());
  t.letter = 30;
  t.type(0, 100, 50, {4, 4});
  t.type(1, 140, 50, {4, 4});
  CHECK(find_lines(ink(t.page)).size() == 2);
}

TEST_CASE("a page of words: pieces in reading order, every letter in one of them, none cut") {
  for (unsigned seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Typewriter t(400, 700, 250, 10);
    const Index count = 1 + static_cast<Index>(random() % 12);
    for (Index line = 0; line < count; ++line) {
      std::vector<int> words;
      for (Index used = 60; used < 640;) {
        words.push_back(1 + static_cast<int>(random() % 9));
        used += words.back() * 9 + 6;
        if (used > 560) break;
      }
      t.type(line, 30 + 30 * line, 20 + static_cast<Index>(random() % 30), words);
    }
    const Page page = cut_into_lines(t.page, same_size());
    CHECK(page.scale == 1.0);
    std::vector<std::string> texts;
    std::size_t in_tiles = 0;
    for (const Tile& tile : page.tiles) {
      CHECK(tile.box.width() <= 128);
      CHECK(tile.box.height() <= 128);
      CHECK(tile.joint != Joint::overlap);
      CHECK(tile.joint != Joint::letter);
      texts.push_back(read_perfectly(t, tile.box));
      for (const auto& l : t.letters) in_tiles += holds(tile.box, l.box);
    }
    CHECK(in_tiles == t.letters.size());
    CHECK(assembled(page, texts) == whole_text(t));
  }
}

TEST_CASE("letters of any size are made those that the model reads") {
  Typewriter t(300, 400, 250, 10);
  for (Index line = 0; line < 5; ++line) t.type(line, 40 + 50 * line, 30, {5, 3, 6});
  for (const double x_height : {5.0, 8.0, 10.0, 20.0}) {
    CAPTURE(x_height);
    CutOptions options = same_size();
    options.x_height = x_height;
    const Page page = cut_into_lines(t.page, options);
    CHECK(page.scale == doctest::Approx(x_height / 10));
    const auto lines = find_lines(ink(page.pixels));
    REQUIRE(lines.size() == 5);
    for (const Line& line : lines)
      CHECK(std::abs(static_cast<double>(line.x_height) - x_height) <= 1);
  }
}

TEST_CASE("an empty line is seen") {
  Typewriter t(300, 200, 250, 10);
  for (const Index top : {20, 50, 110, 140}) t.type(top, top, 20, {3});
  const Page page = cut_into_lines(t.page, same_size());
  REQUIRE(page.tiles.size() == 4);
  CHECK(assembled(page, {"a", "b", "c", "d"}) == "a\nb\n\nc\nd");
}

TEST_CASE("a word longer than a frame is cut between letters, or through with an overlap") {
  Typewriter t(100, 400, 250, 10);
  t.type(0, 40, 20, {30, 2});
  const Page between = cut_into_lines(t.page, same_size());
  std::vector<std::string> texts;
  for (const Tile& tile : between.tiles) texts.push_back(read_perfectly(t, tile.box));
  REQUIRE(between.tiles.size() > 2);
  CHECK(between.tiles[1].joint == Joint::letter);
  CHECK(assembled(between, texts) == whole_text(t));

  Typewriter bar(100, 400, 250, 10);
  bar.fill({40, 20, 50, 380});
  const Page through = cut_into_lines(bar.page, same_size());
  REQUIRE(through.tiles.size() > 2);
  for (std::size_t i = 1; i < through.tiles.size(); ++i) {
    CHECK(through.tiles[i].joint == Joint::overlap);
    CHECK(through.tiles[i].box.left < through.tiles[i - 1].box.right);
  }
  CHECK(through.tiles.front().box.left <= 20);
  CHECK(through.tiles.back().box.right >= 380);
}

TEST_CASE("pages of all kinds of noise are cut into tiles that fit, and end") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Grey page(1 + static_cast<Index>(random() % 300), 1 + static_cast<Index>(random() % 300));
    const auto kind = random() % 3;
    for (Index i = 0; i < page.size(); ++i)
      page.data()[i] = static_cast<std::uint8_t>(kind == 0   ? random()
                                                 : kind == 1 ? (random() % 50 ? 255 : 0)
                                                             : (random() % 2 ? 255 : 0));
    const Page lines = cut_into_lines(page);
    for (const Tile& tile : lines.tiles) {
      CHECK(tile.box.width() >= 1);
      CHECK(tile.box.width() <= 128);
      CHECK(tile.box.height() >= 1);
      CHECK(tile.box.height() <= 128);
    }
    for (const Square& s : cut_into_grid(page).squares) CHECK(s.pixels.size() <= 128 * 128);
  }
}

TEST_CASE("what two tiles both show is there once") {
  CHECK(merged("the quick br", "ck brown fox") == "the quick brown fox");
  CHECK(merged("the quick bri", "ck brown fox") ==
        "the quick brown fox");  // half a letter, misread
  CHECK(merged("the quick br", "zk brown fox") == "the quick brown fox");
  CHECK(merged("abc", "xyz") == "abcxyz");
  CHECK(merged("", "xyz") == "xyz");
  CHECK(merged("abc", "") == "abc");
}

TEST_CASE("a grid shows every letter whole, and its text is put together by where it stood") {
  Typewriter t(260, 420, 250, 10);
  for (Index line = 0; line < 7; ++line) t.type(line, 20 + 33 * line, 12, {5, 3, 7, 6, 4, 8});
  const Grid grid = cut_into_grid(t.page, same_size());
  CHECK(grid.x_height == 10);
  const auto origin = [&](Index place, Index size) {
    return std::max(Index{0}, std::min(place * 96, size - 128));
  };
  std::vector<bool> seen(t.letters.size());
  std::vector<std::string> texts;
  for (const Square& s : grid.squares) {
    const Index top = origin(s.row, grid.height), left = origin(s.column, grid.width);
    std::string text;
    Index line = -1;
    std::size_t before = 0;
    for (std::size_t i = 0; i < t.letters.size(); ++i) {
      const Box& b = t.letters[i].box;
      if (!holds({top, left, top + 128, left + 128}, b)) continue;
      // Painted over where the line is cut, and then in a neighbour.
      if (s.pixels(b.bottom - 1 - top, b.left - left) > 100) continue;
      seen[i] = true;
      if (t.letters[i].line != line && line >= 0) text += '\n';
      if (t.letters[i].line == line && b.left - t.letters[before].box.right >= Typewriter::kWord)
        text += ' ';
      line = t.letters[i].line;
      before = i;
      text += static_cast<char>('a' + i % 26);
    }
    CHECK(std::count(text.begin(), text.end(), '\n') + 1 == static_cast<Index>(s.lines.size()));
    texts.push_back(text);
  }
  CHECK(std::count(seen.begin(), seen.end(), false) == 0);
  CHECK(assembled(grid, texts) == whole_text(t));
}
