// Edit distance and where two texts differ, against the recursive definition.
#include "support/edit_distance.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>

namespace {

// The definition: what is left of both texts is compared letter by letter, every way.
std::size_t by_definition(std::string_view a, std::string_view b) {
  if (a.empty() || b.empty()) return a.size() + b.size();
  const auto rest_a = a.substr(1), rest_b = b.substr(1);
  if (a[0] == b[0]) return by_definition(rest_a, rest_b);
  return 1 + std::min({by_definition(rest_a, rest_b), by_definition(rest_a, b),
                       by_definition(a, rest_b)});
}

std::string random_text(std::mt19937& random, std::size_t longest) {
  std::string s(random() % (longest + 1), ' ');
  for (char& c : s) c = static_cast<char>('a' + random() % 3);
  return s;
}

std::string marks(std::string_view truth, std::string_view read) {
  std::string s;
  for (const bool m : program::differences(truth, read).marked) s += m ? '^' : '.';
  return s;
}

}  // namespace

TEST_CASE("the edit distance is the fewest letters put in, taken out or replaced") {
  CHECK(program::edit_distance("", "") == 0);
  CHECK(program::edit_distance("", "abc") == 3);
  CHECK(program::edit_distance("abc", "") == 3);
  CHECK(program::edit_distance("kitten", "sitting") == 3);
  CHECK(program::edit_distance("one\ntwo", "one two") == 1);
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const std::string a = random_text(random, 7), b = random_text(random, 7);
    CAPTURE(a);
    CAPTURE(b);
    const std::size_t expected = by_definition(a, b);
    CHECK(program::edit_distance(a, b) == expected);
    CHECK(program::edit_distance(b, a) == expected);
    CHECK(program::differences(a, b).distance == expected);
  }
}

TEST_CASE("differences are marked at the letters that are wrong, and behind what is missing") {
  CHECK(marks("same", "same") == ".....");
  CHECK(marks("hairiferous", "hairlferous") == "....^.......");
  CHECK(marks("abcd", "abXcd") == "..^...");  // X does not belong there
  CHECK(marks("abcd", "acd") == ".^..");      // b is missing before c
  CHECK(marks("abc", "ab") == "..^");         // c is missing at the end
  CHECK(marks("", "") == ".");
}

TEST_CASE("no more letters are marked than were edited, and none only where the texts are equal") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const std::string a = random_text(random, 12), b = random_text(random, 12);
    const auto d = program::differences(a, b);
    const auto marked =
        static_cast<std::size_t>(std::count(d.marked.begin(), d.marked.end(), true));
    CHECK(marked <= d.distance);
    CHECK((marked == 0) == (a == b));
  }
}
