#include "casa/text/tokenizer/pretokenize.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace casa::io::detail;

namespace {

using Words = std::vector<std::string>;
using Kind = PretokenizerStep::Kind;

Words words(const std::vector<PretokenizerStep>& steps, std::string_view text,
            bool at_start = true) {
  Words out;
  Pretokenizer pretokenize(steps);
  pretokenize(text, at_start, [&](std::string_view word) { out.emplace_back(word); });
  return out;
}

PretokenizerStep split(Pattern pattern, SplitBehavior behavior, bool invert = false) {
  return {Kind::split, behavior, invert, std::move(pattern), {}, {}, {}};
}
Pattern regex(std::string_view source) { return {{}, Regex(source, "test", {})}; }
PretokenizerStep metaspace(PrependScheme prepend, bool cut) {
  return {Kind::metaspace, {}, {}, {}, "_", prepend, cut};
}

}  // namespace

TEST_CASE("a split does with its matches what is asked for") {
  const std::string text = "a--b-";
  const Pattern dash = {"-", {}};
  CHECK(words({split(dash, SplitBehavior::removed)}, text) == Words{"a", "b"});
  CHECK(words({split(dash, SplitBehavior::isolated)}, text) == Words{"a", "-", "-", "b", "-"});
  CHECK(words({split(dash, SplitBehavior::contiguous)}, text) == Words{"a", "--", "b", "-"});
  CHECK(words({split(dash, SplitBehavior::merged_with_previous)}, text) == Words{"a-", "-", "b-"});
  CHECK(words({split(dash, SplitBehavior::merged_with_next)}, text) == Words{"a", "-", "-b", "-"});
  CHECK(words({split(dash, SplitBehavior::removed, true)}, text) == Words{"-", "-", "-"});
  CHECK(words({split(dash, SplitBehavior::removed)}, "").empty());
}

TEST_CASE("the patterns of Qwen2 and GPT-2 cut as published") {
  CHECK(is_known_pattern(kGpt2Pattern));
  CHECK_FALSE(is_known_pattern("(a+)+$"));
  const auto gpt2 = std::vector{split(regex(kGpt2Pattern), SplitBehavior::isolated)};
  CHECK(words(gpt2, "I'll  go 12 times!?\n") ==
        Words{"I", "'ll", " ", " go", " 12", " times", "!?", "\n"});
  const std::string_view qwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
      R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
  CHECK(is_known_pattern(qwen2));
  const auto steps = std::vector{split(regex(qwen2), SplitBehavior::isolated)};
  CHECK(words(steps, "I'LL\t 12+x\r\n\n y") ==
        Words{"I", "'LL", "\t", " ", "1", "2", "+x", "\r\n\n", " y"});
  std::string llama3(qwen2);
  llama3.insert(llama3.find(R"(\p{N}| ?)") + 5, "{1,3}");
  CHECK(is_known_pattern(llama3));
  CHECK(words({split(regex(llama3), SplitBehavior::isolated)}, "12345") == Words{"123", "45"});
}

TEST_CASE("white space is White_Space, whatever PCRE2 takes for it") {
  const auto steps = std::vector{split(regex("\\s"), SplitBehavior::removed)};
  CHECK(words(steps,
              "a\xe1\xa0\x8e"
              "b")
            .size() == 1);  // U+180E
  CHECK(words(steps,
              "a\xc2\x85"
              "b")
            .size() == 2);  // U+0085
  CHECK(words(steps,
              "a\x1c"
              "b")
            .size() == 1);
  const auto negated = std::vector{split(regex("[^\\s]+"), SplitBehavior::isolated)};
  CHECK(words(negated,
              "a\xe1\xa0\x8e"
              "b")
            .size() == 1);
}

TEST_CASE("digits are cut one by one or by the number") {
  const std::string text =
      "a12\xe2\x85\xa3"
      "b\xd9\xa3";  // with a Roman four and an Arabic three
  const Words single = {"a", "1", "2", "\xe2\x85\xa3", "b", "\xd9\xa3"};
  const Words numbers = {"a", "12\xe2\x85\xa3", "b", "\xd9\xa3"};
  CHECK(words({{Kind::digits, SplitBehavior::isolated, {}, {}, {}, {}, {}}}, text) == single);
  CHECK(words({{Kind::digits, SplitBehavior::contiguous, {}, {}, {}, {}, {}}}, text) == numbers);
}

TEST_CASE("Metaspace marks spaces, and the beginning as asked for") {
  CHECK(words({metaspace(PrependScheme::always, true)}, "a  b") == Words{"_a", "_", "_b"});
  CHECK(words({metaspace(PrependScheme::always, true)}, " a") == Words{"_a"});
  CHECK(words({metaspace(PrependScheme::never, true)}, "a b ") == Words{"a", "_b", "_"});
  CHECK(words({metaspace(PrependScheme::first, true)}, "a b", true) == Words{"_a", "_b"});
  CHECK(words({metaspace(PrependScheme::first, true)}, "a b", false) == Words{"a", "_b"});
  CHECK(words({metaspace(PrependScheme::always, false)}, "a b") == Words{"_a_b"});
}

TEST_CASE("steps cut the pieces of the step before") {
  const std::vector<PretokenizerStep> steps = {split({"\n", {}}, SplitBehavior::isolated),
                                               metaspace(PrependScheme::first, true)};
  CHECK(words(steps, "a b\nc") == Words{"_a", "_b", "\n", "c"});
  CHECK(words({{Kind::prefix_space, {}, {}, {}, {}, {}, {}}}, "a") == Words{" a"});
  CHECK(words({{Kind::prefix_space, {}, {}, {}, {}, {}, {}}}, " a") == Words{" a"});
}
