#include "casa/text/tokenizer/normalize.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

using namespace casa::io::detail;

namespace {

std::string utf8(const std::u32string& points) {
  std::string s;
  for (const char32_t c : points) append_utf8(s, c);
  return s;
}

}  // namespace

TEST_CASE("NFC composes, orders marks and replaces singletons (UAX 15)") {
  CHECK(nfc("") == "");
  CHECK(nfc("plain") == "plain");
  CHECK(nfc(utf8(U"e\u0301")) == utf8(U"\u00e9"));
  CHECK(nfc(utf8(U"xe\u0301x")) == utf8(U"x\u00e9x"));
  CHECK(nfc(utf8(U"\u00e9\u0323")) == utf8(U"\u1eb9\u0301"));
  CHECK(nfc(utf8(U"\u212b\u2126")) == utf8(U"\u00c5\u03a9"));
  CHECK(nfc(utf8(U"\u1100\u1161\u11a8")) == utf8(U"\uac01"));
  CHECK(nfc(utf8(U"\u0958")) == utf8(U"\u0915\u093c"));  // excluded from composition
  CHECK(nfc(utf8(U"\u0344")) == utf8(U"\u0308\u0301"));
  CHECK(normal_form(utf8(U"\u00e9"), NormalForm::nfd) == utf8(U"e\u0301"));
  CHECK(normal_form(utf8(U"\ufb01"), NormalForm::nfkc) == "fi");
  CHECK(normal_form(utf8(U"\u1e9b\u0323"), NormalForm::nfkd) == utf8(U"s\u0323\u0307"));
}

TEST_CASE("NFC by stretches is NFC of the whole") {
  std::mt19937 random(31);
  const std::u32string some =
      U"ae\u00e9 \u0301\u0323\u0308\u0345\u0915\u093c\u1100\u1161\u212b\u3099\u304b";
  for (int round = 0; round < 2000; ++round) {
    std::u32string points;
    for (std::size_t n = random() % 12; n > 0; --n) points += some[random() % some.size()];
    const std::string s = utf8(points);
    CAPTURE(s);
    CHECK(nfc(s) == normal_form(s, NormalForm::nfc));
    CHECK(nfc(nfc(s)) == nfc(s));
    CHECK(nfc(normal_form(s, NormalForm::nfd)) == nfc(s));
  }
}

TEST_CASE("marks younger than Unicode 9 stay where they are, as in the reference") {
  CHECK(nfc(utf8(U"a\u07fd\u0301")) == utf8(U"a\u07fd\u0301"));
  CHECK(nfc(utf8(U"a\u0301\u1ac1\u0327")) == utf8(U"\u00e1\u1ac1\u0327"));
  CHECK(nfc(utf8(U"\U00011935\U00011930")) == utf8(U"\U00011935\U00011930"));
}

TEST_CASE("steps follow one another, an empty text stays empty") {
  using Kind = NormalizerStep::Kind;
  const Normalizer normalizer({{Kind::prepend, {}, {}, " "}, {Kind::replace, {}, {" ", {}}, "__"}});
  CHECK(normalizer("a b") == "__a__b");
  CHECK(normalizer("") == "");
  CHECK(Normalizer()("a b") == "a b");
}
