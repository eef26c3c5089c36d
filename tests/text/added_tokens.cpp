#include "casa/text/tokenizer/added_tokens.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using casa::io::AddedToken;
using namespace casa::io::detail;

namespace {

/// The text with tokens as <id>.
std::string marked(const std::vector<AddedToken>& tokens, const std::string& text,
                   const std::vector<casa::io::TextRange>& plain = {}) {
  std::string out;
  AddedTokenFinder(tokens, Normalizer())
      .split(
          text, plain,
          [&](std::size_t begin, std::size_t end) {
            out += "[" + text.substr(begin, end - begin) + "]";
          },
          [&](const AddedToken& token) { out += "<" + std::to_string(token.id) + ">"; });
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
          "\xc3\xa9", {}, [](auto, auto) {},
          [&](const AddedToken& token) { found.push_back(token.id); });
  CHECK(found == std::vector{2});
}

TEST_CASE("special tokens are found where the text is not plain, others everywhere") {
  AddedToken end = {1, "<|e|>"}, longer = {2, "<|e|>x"}, swallows = {3, "y<|e|>"}, other = {4, "b"};
  end.special = longer.special = swallows.special = true;
  const std::vector<AddedToken> tokens = {end, longer, swallows, other, {5, "e"}};
  CHECK(marked(tokens, "a<|e|>b", {{0, 7}}) == "[a<|e|>]<4>");  // the e in it is passed over too
  CHECK(marked(tokens, "a<|e|>b", {{0, 1}, {6, 7}}) == "[a]<1><4>");
  // no special token reaches over an edge, and the one before the edge is found
  CHECK(marked(tokens, "<|e|>x") == "<2>");
  CHECK(marked(tokens, "<|e|>x", {{5, 6}}) == "<1>[x]");
  CHECK(marked(tokens, "y<|e|>", {{0, 1}}) == "[y]<1>");
  CHECK(marked(tokens, "<|e|>", {{0, 2}}) == "[<|]<5>[|>]");
  CHECK(marked(tokens, "<|e|><|e|><|e|>", {{5, 10}}) == "<1>[<|e|>]<1>");
  CHECK(marked(tokens, "<|e|><|e|>", {{0, 0}, {3, 3}, {5, 10}}) == "[<|]<5>[|><|e|>]");
}
