// UTF-8: checking, reading and writing code points, repairing what was cut; and the alphabet in
// which byte-level tokenizers write bytes.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "casa/core/error.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// Reads one byte after the other and knows whether a character is complete, goes on, or is broken
/// (Unicode 15, table 3-7: no overlong forms, no surrogates, nothing beyond U+10FFFF).
class Utf8Reader {
 public:
  enum class Step { complete, inside, broken };

  Step step(unsigned char byte) {
    if (missing_ == 0) {
      if (byte < 0x80) return Step::complete;
      if (byte < 0xc2 || byte > 0xf4) return Step::broken;
      missing_ = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
      low_ = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
      high_ = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
      return Step::inside;
    }
    if (byte < low_ || byte > high_) {
      missing_ = 0;
      return Step::broken;
    }
    low_ = 0x80;
    high_ = 0xbf;
    return --missing_ == 0 ? Step::complete : Step::inside;
  }
  bool inside() const { return missing_ > 0; }

 private:
  int missing_ = 0;
  unsigned char low_ = 0x80, high_ = 0xbf;
};

/// Place of the first character that is not UTF-8 (or is cut at the end), npos where all is well.
inline std::size_t find_invalid_utf8(std::string_view text) {
  Utf8Reader reader;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (!reader.inside()) {
      for (std::uint64_t eight = 0; i + 8 <= text.size(); i += 8) {
        std::memcpy(&eight, text.data() + i, 8);
        if ((eight & 0x8080808080808080u) != 0) break;
      }
      if (i == text.size()) return std::string_view::npos;
      begin = i;
    }
    if (reader.step(static_cast<unsigned char>(text[i])) == Utf8Reader::Step::broken) return begin;
    ++i;
  }
  return reader.inside() ? begin : std::string_view::npos;
}

/// Bytes of the character that begins with this byte of valid UTF-8.
inline std::size_t utf8_size(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/// The code point that begins at text[at]; text is valid UTF-8.
inline char32_t code_point(std::string_view text, std::size_t at = 0) {
  const auto byte = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
  };
  switch (utf8_size(text[at])) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f);
    case 3:
      return (byte(0) & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 |
             (byte(3) & 0x3f);
  }
}

/// Where the character that ends before `at` begins; at > 0, text is valid UTF-8.
inline std::size_t previous_character(std::string_view text, std::size_t at) {
  do --at;
  while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
  return at;
}

inline void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t bits) {
    out += static_cast<char>(static_cast<unsigned char>(bits));
  };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | c >> 6);
    put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3f));
    put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  }
}

inline constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";  // U+FFFD

/// Unicode's property White_Space, which is what `\s` means in the patterns of tokenizers.
inline bool is_white_space(char32_t c) {
  return c == ' ' || (c >= 0x09 && c <= 0x0d) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

/// Turns bytes that come in pieces into valid UTF-8: a character is given out when it is complete,
/// and each maximal part that can not become one as U+FFFD (Unicode 15, section 3.9).
class Utf8Repair {
 public:
  void push(std::string_view bytes, std::string& out) {
    for (const char byte : bytes) {
      auto step = reader_.step(static_cast<unsigned char>(byte));
      if (step == Utf8Reader::Step::broken &&
          size_ > 0) {  // this byte may begin the next character
        out += kReplacementCharacter;
        size_ = 0;
        step = reader_.step(static_cast<unsigned char>(byte));
      }
      if (step == Utf8Reader::Step::broken) {
        out += kReplacementCharacter;
        continue;
      }
      pending_[size_++] = byte;
      if (step == Utf8Reader::Step::complete) {
        out.append(pending_.data(), size_);
        size_ = 0;
      }
    }
  }
  void finish(std::string& out) {
    if (size_ > 0) out += kReplacementCharacter;
    *this = {};
  }

 private:
  Utf8Reader reader_;
  std::array<char, 4> pending_ = {};
  std::size_t size_ = 0;
};

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100, U+0101,
/// ...
struct ByteAlphabet {
  std::array<char32_t, 256> letter = {};
  std::array<int, 324> byte = {};  ///< the byte that a letter stands for; -1: not in the alphabet

  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (std::size_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      letter[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[letter[b]] = static_cast<int>(b);
    }
  }

  /// The bytes that `token` writes; false where a character is no letter of the alphabet.
  bool read(std::string_view token, std::string& bytes) const {
    bytes.clear();
    for (std::size_t i = 0; i < token.size(); i += utf8_size(token[i])) {
      const char32_t c = code_point(token, i);
      if (c >= byte.size() || byte[c] < 0) return false;
      bytes += static_cast<char>(static_cast<unsigned char>(byte[c]));
    }
    return true;
  }
};

inline const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
