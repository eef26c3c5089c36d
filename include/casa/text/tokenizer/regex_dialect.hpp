// Regular expressions of tokenizer files, written for Oniguruma (Ruby's syntax), as PCRE2 reads
// them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "casa/core/error.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// Rewrites what the two engines read differently, and refuses what has no counterpart. Otherwise a
/// pattern that both accept with different meanings would cut texts at other places, unnoticed.
class RegexDialect {
 public:
  RegexDialect(std::string_view pattern, std::string_view name) : pattern_(pattern), name_(name) {}

  std::string translated() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_character(c);
      } else if (c == '[') {
        in_class_ = true;
        class_begin_ = at_ + 1 + (pattern_.substr(at_ + 1).starts_with('^') ? 1 : 0);
        take(1);
      } else if (pattern_.substr(at_).starts_with("(?")) {
        group();
      } else {
        refuse_where("(*", "a verb");
        refuse_where("{,", "a repeat without its least number");
        take(1);
      }
    }
    return std::move(out_);
  }

 private:
  // Oniguruma's \w; PCRE2's own has other marks and numbers.
  static constexpr std::string_view word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

  void take(std::size_t count) {
    out_ += pattern_.substr(at_, count);
    at_ += count;
  }
  void put(std::string_view instead, std::size_t count) {
    out_ += instead;
    at_ += count;
  }
  [[noreturn]] void refuse(std::size_t count, std::string_view what) const {
    fail(name_, ": ", what, " ", casa::quoted(pattern_.substr(at_, count)),
         " in the regular expression ", casa::quoted(pattern_), " is not supported");
  }
  void refuse_where(std::string_view begin, std::string_view what) const {
    if (pattern_.substr(at_).starts_with(begin)) refuse(begin.size(), what);
  }

  void escape() {
    if (at_ + 1 == pattern_.size()) return take(1);
    const char c = pattern_[at_ + 1];
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    const auto one_of = [&](std::string_view set) { return set.find(c) != set.npos; };
    // PCRE2's \s takes U+180E, which is no White_Space since Unicode 6.3.
    if (c == 's') return put(R"(\p{White_Space})", 2);
    if (c == 'S') return put(R"(\P{White_Space})", 2);
    if (c == 'w') return in_class_ ? put(word, 2) : put(casa::text("[", word, "]"), 2);
    if (c == 'u' && at_ + 6 <= pattern_.size() &&
        pattern_.substr(at_ + 2, 4).find_first_not_of("0123456789abcdefABCDEF") == pattern_.npos)
      return put(casa::text("\\x{", pattern_.substr(at_ + 2, 4), "}"), 6);
    if (c == 'h') return in_class_ ? put("0-9A-Fa-f", 2) : put("[0-9A-Fa-f]", 2);
    if (!in_class_) {
      if (c == 'W') return put(casa::text("[^", word, "]"), 2);
      if (c == 'H') return put("[^0-9A-Fa-f]", 2);
      if (c == 'b')
        return put(
            casa::text("(?:(?<=[", word, "])(?![", word, "])|(?<![", word, "])(?=[", word, "]))"),
            2);
      if (c == 'B')
        return put(
            casa::text("(?:(?<=[", word, "])(?=[", word, "])|(?<![", word, "])(?![", word, "]))"),
            2);
      if (one_of("AzZGR")) return take(2);
    }
    if (letter && !one_of("pPdDrntfx")) refuse(2, "the escape");
    take(2);
  }

  // Oniguruma has nested classes and intersections (&&); PCRE2 takes both as plain characters.
  void class_character(char c) {
    refuse_where("[", "a class inside a class");
    refuse_where("&&", "an intersection");
    if (c == ']' && at_ != class_begin_) in_class_ = false;
    take(1);
  }

  void group() {
    const std::string_view rest = pattern_.substr(at_ + 2);
    if (rest.empty()) return take(2);
    if (std::string_view(":=!>#<").find(rest[0]) != std::string_view::npos) return take(3);
    // Flags. Ruby's m lets the dot match a newline, which is s to PCRE2.
    std::string flags;
    std::size_t size = 0;
    for (; size < rest.size() && std::string_view("imx-").find(rest[size]) != rest.npos; ++size)
      flags += rest[size] == 'm' ? 's' : rest[size];
    if (size == 0 || size == rest.size() || (rest[size] != ':' && rest[size] != ')'))
      refuse(3 + size, "the group");
    put("(?" + flags, 2 + size);
  }

  std::string_view pattern_, name_;
  std::string out_;
  std::size_t at_ = 0, class_begin_ = 0;
  bool in_class_ = false;
};

inline std::string oniguruma_as_pcre2(std::string_view pattern, std::string_view name) {
  return RegexDialect(pattern, name).translated();
}

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
