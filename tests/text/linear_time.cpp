// Encoding takes steps in proportion to the text, whatever the text: no word is too long. Steps are
// counted, not timed: those of our own code by the compiler (-fsanitize-coverage=trace-pc for this
// file), those of PCRE2 by a callout before each item of a pattern. So the verdict is the same on a
// busy machine.
#include <doctest/doctest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/steps.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace {

int count_callout(pcre2_callout_block_8*, void*) {
  ++steps_taken;
  return 0;
}

pcre2_code_8* compile_counted(PCRE2_SPTR8 pattern, PCRE2_SIZE size, std::uint32_t options,
                              int* code, PCRE2_SIZE* offset, pcre2_compile_context_8* context) {
  return pcre2_compile_8(pattern, size, options | PCRE2_AUTO_CALLOUT, code, offset, context);
}

pcre2_match_context_8* create_counted(pcre2_general_context_8* general) {
  pcre2_match_context_8* context = pcre2_match_context_create_8(general);
  if (context) pcre2_set_callout_8(context, count_callout, nullptr);
  return context;
}

}  // namespace

// The library under another name, so that the linker does not take the copies of other files, which
// do not count.
#define casa casa_that_counts
#define pcre2_compile_8 compile_counted
#define pcre2_match_context_create_8 create_counted
#include "casa/text/tokenizer.hpp"
#include "golden.hpp"

using namespace casa::io;

namespace {

std::string repeated(const std::string& unit, std::size_t size) {
  std::string s;
  while (s.size() + unit.size() <= size) s += unit;
  return s;
}

template <class F>
double steps_of(F f) {
  const std::uint64_t before = steps_taken;
  f();
  return static_cast<double>(steps_taken - before);
}

double encode_steps(const Tokenizer& tokenizer, const std::string& text) {
  return steps_of([&] { REQUIRE_FALSE(tokenizer.encode(text).empty()); });
}

constexpr std::size_t size = std::size_t{1} << 15;
// Four times the text may take this many times the steps: a little more than four, as heaps and
// hash tables do not divide evenly. A quadratic step would take sixteen.
constexpr double most = 4.6;

}  // namespace

TEST_CASE("steps of our own code and of PCRE2 are counted, quadratic ones too") {
  const auto loop = [](std::size_t n) {
    return steps_of([&] {
      casa::io::detail::Utf8Repair repair;
      std::string out;
      for (std::size_t i = 0; i < n; ++i) repair.push(std::string(n, 'a'), out);
    });
  };
  CHECK(loop(64) > 64 * 64);
  CHECK(loop(256) / loop(64) > 12);
  const detail::Pattern pattern{
      {}, std::optional<detail::Regex>(std::in_place, "a(?!.*b)", "test", RegexLimits{})};
  const auto matches = [&](std::size_t n) {
    return steps_of([&] {
      detail::PatternFinder finder(pattern);
      std::size_t count = 0;
      finder.for_each(std::string(n, 'a'), [&](TextRange) { ++count; });
      CHECK(count == n);
    });
  };
  CHECK(matches(1024) / matches(256) > 12);
}

TEST_CASE("anything is encoded in steps in proportion to its length") {
  const std::vector<std::string> units = {"a",
                                          " ",
                                          "7",
                                          "\n",
                                          "!",
                                          "\xf0\x9f\x98\x80",
                                          "\xe6\x97\xa5",
                                          "abcdefgh",
                                          "e\xcc\x81",
                                          "\xcc\x81\xcc\xa7",
                                          "it's ",
                                          "<|im_end|>",
                                          "<|im_end"};
  int count = 0;
  for (const auto& folder : golden::folders("tokenizer_")) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder.string());
    for (const auto& unit : units) {
      CAPTURE(unit);
      const std::string whole = repeated(unit, size), quarter = repeated(unit, size / 4);
      const double steps = encode_steps(tokenizer, whole);
      CHECK(steps > static_cast<double>(size) / 8);
      CHECK(steps < 400 * static_cast<double>(size));
      CHECK(steps / encode_steps(tokenizer, quarter) < most);
      ++count;
    }
  }
  CHECK(count > 0);
}

TEST_CASE("plain stretches cost no more, however many they are") {
  const auto folders = golden::folders("tokenizer_");
  for (const auto& folder : folders) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder.string());
    const auto steps = [&](std::size_t n) {
      const std::string text = repeated("ab <|im_end|> ", n);
      std::vector<TextRange> plain;
      for (std::size_t at = 0; at + 20 < text.size(); at += 20) plain.push_back({at, at + 9});
      return steps_of([&] { REQUIRE_FALSE(tokenizer.encode(text, false, plain).empty()); });
    };
    CHECK(steps(size) / steps(size / 4) < most);
  }
}

TEST_CASE("a letter repeated a hundred thousand times is one word like others") {
  for (const auto& folder : golden::folders("tokenizer_")) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder.string());
    const std::string word(100'000, 'x');
    CHECK(encode_steps(tokenizer, word) < 400 * 100'000.0);
    CHECK(tokenizer.decode(tokenizer.encode(word, false)).find(word) != std::string::npos);
  }
}
