#include "casa/json/floating_text.hpp"

#include <doctest/doctest.h>

#include <cstdint>

#include "casa/core/bits.hpp"
#include "support/mutations.hpp"

using namespace casa::io::detail;

namespace {

template <class F>
void check_text(F x) {
  CAPTURE(static_cast<double>(x));
  const std::string shortest = shortest_text(x), streamed = streamed_text(x);
  bool whole = false;
  CHECK(streamed_number<F>(streamed, whole) == x);
  CHECK(whole);
  CHECK(streamed_number<F>(shortest, whole) == x);
  // %g may take another form (1e+06, 1000000), but no other digits: those of the shortest text.
  const auto digits = [](const std::string& s) {
    std::string kept;
    for (const char c : s.substr(0, s.find('e')))
      if (c >= '0' && c <= '9') kept += c;
    kept.erase(0, kept.find_first_not_of('0'));
    kept.erase(kept.find_last_not_of('0') + 1);
    return kept;
  };
  CHECK(digits(streamed).size() <= digits(shortest).size());
}

}  // namespace

TEST_CASE("numbers as text without <charconv> read back as themselves, in as few digits") {
  constexpr std::uint64_t seed = 20;
  CAPTURE(seed);
  Random random(seed);
  for (int i = 0; i < 2000; ++i) {
    const auto bits = random.next();
    CAPTURE(bits);
    if (const auto x = casa::detail::bit_cast<double>(bits); std::isfinite(x)) check_text(x);
    if (const auto x = casa::detail::bit_cast<float>(static_cast<std::uint32_t>(bits));
        std::isfinite(x))
      check_text(x);
  }
  for (const double x : {0.0, 1.0, -0.5, 0.1, 1e6, 1e-5, 123456789.0, 5e-324, 1.7e308, 1e22, 1e23})
    check_text(x);
  CHECK(streamed_text(0.1) == "0.1");
  CHECK(streamed_text(10000.0f) == "1e+04");
}

TEST_CASE("a number too large for double is told, with and without <charconv>") {
  for (const char* token : {"1e309", "-1e309", "1e400", "17976931348623159e300"}) {
    CAPTURE(token);
    bool whole = false;
    CHECK(std::isinf(streamed_number<double>(token, whole)));
    CHECK(whole);
    CHECK(is_out_of_range(token));
  }
  for (const char* token : {"1e308", "-1.5", "0.25", "17976931348623157e292"}) {
    CAPTURE(token);
    bool whole = false;
    CHECK(std::isfinite(streamed_number<double>(token, whole)));
    CHECK(whole);
    CHECK_FALSE(is_out_of_range(token));
  }
  bool whole = true;
  streamed_number<double>("1e309 ", whole);
  CHECK_FALSE(whole);
  CHECK_FALSE(is_out_of_range("1e309 "));
}
