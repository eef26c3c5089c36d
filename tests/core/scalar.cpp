#include "casa/core/scalar.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

using namespace casa;

namespace {

// The value of a 16-bit float with e exponent and m mantissa bits, from its definition.
double defined_value(std::uint16_t bits, int e, int m) {
  const int exponent = (bits >> m) & ((1 << e) - 1), mantissa = bits & ((1 << m) - 1);
  const int bias = (1 << (e - 1)) - 1;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << e) - 1)
    return mantissa ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - m);
  return sign * std::ldexp((1 << m) + mantissa, exponent - bias - m);
}

template <class S>
constexpr int kMantissa = std::is_same_v<S, half> ? 10 : 7;

}  // namespace

TEST_CASE_TEMPLATE("every 16-bit pattern widens to its value and narrows back", S, bfloat16, half) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const S s{static_cast<std::uint16_t>(bits)};
    const double value = defined_value(s.bits, 15 - kMantissa<S>, kMantissa<S>);
    CAPTURE(bits);
    if (std::isnan(value)) {
      REQUIRE(std::isnan(widen(s)));
      REQUIRE(std::isnan(widen(narrow<S>(widen(s)))));
    } else {
      REQUIRE(static_cast<double>(widen(s)) == value);
      REQUIRE(std::signbit(widen(s)) == std::signbit(value));
      REQUIRE(narrow<S>(widen(s)) == s);
    }
  }
}

TEST_CASE_TEMPLATE("narrowing rounds to nearest, ties to even", S, bfloat16, half) {
  // Neighbours a < b of the same sign: below the middle a, above it b, in the middle the even one.
  const std::uint16_t infinity = std::is_same_v<S, half> ? 0x7c00 : 0x7f80;
  for (std::uint16_t bits = 0; bits + 1 < infinity; ++bits) {
    const S a{bits}, b{static_cast<std::uint16_t>(bits + 1)};
    const float middle =
        static_cast<float>((static_cast<double>(widen(a)) + static_cast<double>(widen(b))) / 2);
    CAPTURE(bits);
    REQUIRE(narrow<S>(middle) == (bits % 2 ? b : a));
    REQUIRE(narrow<S>(std::nextafter(middle, 0.0f)) == a);
    REQUIRE(narrow<S>(std::nextafter(middle, std::numeric_limits<float>::infinity())) == b);
    REQUIRE(narrow<S>(-middle).bits == ((bits % 2 ? b : a).bits | 0x8000));
  }
}

TEST_CASE_TEMPLATE("too large becomes infinity, NaN stays NaN", S, bfloat16, half) {
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(widen(narrow<S>(inf)) == inf);
  CHECK(widen(narrow<S>(-inf)) == -inf);
  CHECK(widen(narrow<S>(std::numeric_limits<float>::max())) == inf);
  for (const std::uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xffc00000u, 0xff80ffffu})
    CHECK(std::isnan(widen(narrow<S>(std::bit_cast<float>(bits)))));
}

TEST_CASE("half overflows from 65520 on") {
  CHECK(widen(narrow<half>(65519.996f)) == 65504.0f);
  CHECK(widen(narrow<half>(65520.0f)) == std::numeric_limits<float>::infinity());
}

static_assert(StorageFor<bfloat16, float> && StorageFor<half, float> && StorageFor<float, float> &&
              StorageFor<double, double>);
static_assert(!StorageFor<bfloat16, double> && !StorageFor<float, double> && !Scalar<half>);

// A float in parentheses would initialise the bits, by its whole number.
static_assert(!std::is_constructible_v<bfloat16, float> && !std::is_constructible_v<half, double>);
static_assert(std::is_constructible_v<half, std::uint16_t>);
static_assert(std::is_trivial_v<bfloat16> && std::is_trivial_v<half>);
