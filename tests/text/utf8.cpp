#include "casa/text/tokenizer/utf8.hpp"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

using namespace casa::io::detail;

namespace {

constexpr std::size_t npos = std::string_view::npos;

std::string repaired(const std::vector<std::string>& parts) {
  Utf8Repair repair;
  std::string out;
  for (const auto& part : parts) repair.push(part, out);
  repair.finish(out);
  return out;
}

}  // namespace

TEST_CASE("every code point is written and read back, and nothing else is valid") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    std::string s;
    append_utf8(s, c);
    const bool all = find_invalid_utf8(s) == npos && code_point(s) == c &&
                     utf8_size(s[0]) == s.size() && previous_character(s, s.size()) == 0;
    if (!all) CHECK_MESSAGE(all, "code point ", static_cast<unsigned>(c));
  }
  std::set<std::string> valid;  // of two bytes: two ASCII characters, or one of U+0080..U+07FF
  for (int a = 0; a < 256; ++a)
    for (int b = 0; b < 256; ++b) {
      const std::string s = {static_cast<char>(a), static_cast<char>(b)};
      if (find_invalid_utf8(s) == npos) valid.insert(s);
    }
  CHECK(valid.size() == 128 * 128 + 0x780);
}

TEST_CASE("the first broken character is named by its place") {
  CHECK(find_invalid_utf8("") == npos);
  CHECK(find_invalid_utf8(std::string(100, 'a')) == npos);
  for (const std::size_t at : {0u, 1u, 7u, 8u, 9u, 63u}) {
    CAPTURE(at);
    for (const char* bad :
         {"\x80", "\xc0\x80", "\xc1\xbf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
          "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xe2\x82", "\xff"}) {
      CHECK(find_invalid_utf8(std::string(at, 'a') + bad) == at);
      CHECK(find_invalid_utf8(std::string(at, 'a') + bad + "aaaaaaaaa") == at);
    }
  }
}

TEST_CASE("broken bytes become one U+FFFD for each maximal part, however they come") {
  const std::string r(kReplacementCharacter);
  struct Case {
    std::string bytes, text;
  };
  // Unicode 15, section 3.9, tables 3-8 to 3-11.
  for (const Case& c : std::vector<Case>{
           {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
           {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", r + r + r + r + r + r + r + r + "A"},
           {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", r + r + r + r + r + "A" + r + r + "B"},
           {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", r + r + r + r + "A"},
           {"\xe2\x82\xac\xf0\x9f\x98", "\xe2\x82\xac" + r}}) {
    CAPTURE(c.bytes);
    CHECK(repaired({c.bytes}) == c.text);
    for (std::size_t cut = 0; cut <= c.bytes.size(); ++cut)
      CHECK(repaired({c.bytes.substr(0, cut), c.bytes.substr(cut)}) == c.text);
  }
}

TEST_CASE("the byte alphabet writes every byte as one letter") {
  std::string token, bytes, all;
  for (std::size_t b = 0; b < 256; ++b) {
    append_utf8(token, byte_alphabet().letter[b]);
    all += static_cast<char>(static_cast<unsigned char>(b));
  }
  CHECK(byte_alphabet().read(token, bytes));
  CHECK(bytes == all);
  CHECK(byte_alphabet().letter[' '] == 0x120);
  CHECK(byte_alphabet().letter['\n'] == 0x10a);
  CHECK(byte_alphabet().letter[0xad] == 0x143);
  CHECK_FALSE(byte_alphabet().read("a b", bytes));
  CHECK_FALSE(byte_alphabet().read("\xe2\x96\x81", bytes));
}
