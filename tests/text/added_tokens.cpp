#include "casa/io/tokenizer/added_tokens.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using casa::io::AddedToken;
using namespace casa::io::detail;

namespace {

/// The text with tokens as <id>.
std::string marked(const std::vector<AddedToken>& tokens, const std::string& text) {
  std::string out;
  AddedTokenFinder(tokens, Normalizer())
      .split(
          text,
          [&](std::size_t begin, std::size_t end) {
            out += "[" + text.substr(begin, end - begin) + "]";
          },
          [&](int id) { out += "<" + std::to_string(id) + ">"; });
  return out;
}

}  // namespace

TEST_CASE("tokens are found from left to right, the longest first") {
  const std::vector<AddedToken> tokens = {{1, "<a>"}, {2, "<a><b>"}, {3, "b"}};
  CHECK(marked(tokens, "x<a>y") == "[x]<1>[y]");
  CHECK(marked(tokens, "<a><b><a>b") == "<2><1><3>");
  CHECK(marked(tokens, "<a") == "[<a]");
  CHECK(marked(tokens, "") == "");
  CHECK(marked({}, "<a>") == "[<a>]");
}

TEST_CASE("lstrip and rstrip swallow White_Space") {
  AddedToken both = {1, "<m>"};
  both.lstrip = both.rstrip = true;
  CHECK(marked({both}, "a \t<m>\xe3\x80\x80\n b <m>") == "[a]<1>[b]<1>");
  CHECK(marked({both}, "<m>  <m>") == "<1><1>");
  CHECK(marked({both}, "a\xe1\xa0\x8e<m>") == "[a\xe1\xa0\x8e]<1>");  // U+180E is none
  AddedToken spaces = {2, "  "};
  spaces.lstrip = spaces.rstrip = true;
  CHECK(marked({spaces}, "a       b") == "[a]<2>[b]");  // later matches are already swallowed
}

TEST_CASE("single_word wants no word character on either side") {
  AddedToken word = {1, "and"};
  word.single_word = true;
  CHECK(marked({word}, "and, and and") == "<1>[, ]<1>[ ]<1>");
  for (const char* text : {"band", "andy", "and_", "1and", "and\xcc\x81",
                           "\xd0\xb6"
                           "and",
                           "and\xe2\x80\x8d"})
    CHECK(marked({word}, text) == "[" + std::string(text) + "]");
}

TEST_CASE("of two tokens that normalize to the same the special one is found") {
  AddedToken plain = {1, "e\xcc\x81"}, special = {2, "\xc3\xa9"};
  special.special = true;
  const Normalizer nfc({{NormalizerStep::Kind::normal_form}});
  std::vector<int> found;
  AddedTokenFinder({plain, special}, nfc)
      .split(
          "\xc3\xa9", [](auto, auto) {}, [&](int id) { found.push_back(id); });
  CHECK(found == std::vector{2});
}
