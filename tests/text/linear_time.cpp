// Encoding takes time in proportion to the text, whatever the text: no word is too long.
#include <doctest/doctest.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "casa/io/tokenizer.hpp"
#include "golden.hpp"

using namespace casa::io;

namespace {

double cpu_seconds() {
  timespec t = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

std::string repeated(const std::string& unit, std::size_t size) {
  std::string s;
  while (s.size() + unit.size() <= size) s += unit;
  return s;
}

double seconds(const Tokenizer& tokenizer, const std::string& text) {
  const double begin = cpu_seconds();
  const auto ids = tokenizer.encode(text);
  const double end = cpu_seconds();
  REQUIRE_FALSE(ids.empty());
  return end - begin;
}

#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr std::size_t size = std::size_t{1} << 20;
#else
constexpr std::size_t size = std::size_t{1} << 17;
#endif

}  // namespace

// Twice the text may take 2.5 times the time, so four times the text 6.25 times. A quadratic step
// would take 16 times. The best of some attempts counts, for other work disturbs the clock and the
// caches.
TEST_CASE("a megabyte of anything is encoded within a second, in time proportional to its length") {
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
                                          "it's "};
  for (const auto& folder : golden::folders("tokenizer_")) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder.string());
    for (const auto& unit : units) {
      CAPTURE(unit);
      const std::string whole = repeated(unit, size), quarter = repeated(unit, size / 4);
      double whole_time = 1e9, quarter_time = 1e9, ratio = 1e9;
      for (int attempt = 0; attempt < 8 && !(ratio < 6.25 && whole_time < 1); ++attempt) {
        quarter_time = (std::min)(quarter_time, seconds(tokenizer, quarter));
        whole_time = (std::min)(whole_time, seconds(tokenizer, whole));
        ratio = whole_time / quarter_time;
      }
      CHECK(ratio < 6.25);
      CHECK(whole_time < 1.0);
    }
  }
}

TEST_CASE("a letter repeated a hundred thousand times is one word like others") {
  for (const auto& folder : golden::folders("tokenizer_")) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder.string());
    const std::string word(100'000, 'x');
    CHECK(seconds(tokenizer, word) < 1.0);
    CHECK(tokenizer.decode(tokenizer.encode(word, false)).find(word) != std::string::npos);
  }
}
