// NaN and infinities in JSON, as Python's json module writes them.
//
// Python writes NaN, Infinity and -Infinity, and reads numbers beyond the range of double as
// infinite; the JSON parser refuses both. So a copy of the text is parsed in which each of them is
// replaced by a short number that stands nowhere else in the text (such as 3e7), and the parser's
// callback translates those three numbers back.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/json/floating_text.hpp"

CASA_NAMESPACE_BEGIN
namespace io::detail {

/// A copy of a JSON text in which three short numbers stand for NaN, Infinity and -Infinity. No
/// byte moves, so that errors name the same places.
class JsonStandIns {
 public:
  /// Whether `json` holds any such number; text() is the copy then.
  bool replace(std::string_view json, std::string_view name) {
    for (std::size_t i = 0; i < json.size();) {
      const char c = json[i];
      if (c == '"') {
        i = end_of_string(json, i);
        continue;
      }
      if (c != '-' && c != 'N' && c != 'I' && !(c >= '0' && c <= '9')) {
        ++i;
        continue;
      }
      const std::string_view token = json.substr(i, end_of_token(json, i) - i);
      if (const int which = kind(token); which >= 0) put(json, i, token.size(), which, name);
      i += token.size();
    }
    return !text_.empty();
  }

  const std::string& text() const { return text_; }

  /// The number that a token stands for: v, or what was replaced.
  double value(double v, std::string_view token) const {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    constexpr std::array<double, 3> values{std::numeric_limits<double>::quiet_NaN(), infinity,
                                           -infinity};
    for (std::size_t k = 0; k < names_.size(); ++k)
      if (token == names_[k]) return values[k];
    return v;
  }

 private:
  static std::size_t end_of_string(std::string_view s, std::size_t i) {
    for (++i; i < s.size() && s[i] != '"'; ++i)
      if (s[i] == '\\') ++i;
    return i + 1;
  }
  static std::size_t end_of_token(std::string_view s, std::size_t i) {
    const auto in_token = [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
             c == '-' || c == '+' || c == '.';
    };
    const std::size_t begin = i;
    while (i < s.size() && in_token(s[i])) ++i;
    return i == begin ? i + 1 : i;
  }

  // 0 NaN, 1 Infinity, 2 -Infinity, -1 anything else: numbers of double, and what is no number.
  static int kind(std::string_view token) {
    if (token == "NaN") return 0;
    if (token == "Infinity") return 1;
    if (token == "-Infinity") return 2;
    if (token.size() < 5 || !is_json_number(token)) return -1;  // 1e309
    if (!is_out_of_range(token) || !is_large(token)) return -1;
    return token[0] == '-' ? 2 : 1;
  }

  // JSON's grammar is narrower than that of from_chars: it wants digits on both sides of the point
  // and no leading zeros.
  static bool is_json_number(std::string_view token) {
    const auto digit = [&](std::size_t i) {
      return i < token.size() && token[i] >= '0' && token[i] <= '9';
    };
    const std::size_t first = token[0] == '-' ? 1 : 0;
    const auto point = token.find('.');
    return digit(first) && (token[first] != '0' || !digit(first + 1)) &&
           (point == std::string_view::npos || digit(point + 1));
  }

  // Of a number out of range: whether it is too large, not too small.
  static bool is_large(std::string_view token) {
    const auto e = token.find_first_of("eE");
    const std::string_view digits = token.substr(0, e);
    const auto first = digits.find_first_of("123456789");
    if (first == std::string_view::npos) return false;
    const auto point = (std::min)(digits.find('.'), digits.size());
    std::int64_t power = static_cast<std::int64_t>(point) - static_cast<std::int64_t>(first);
    if (e != std::string_view::npos) {
      std::string_view written = token.substr(e + 1);
      if (written.starts_with('+')) written.remove_prefix(1);
      std::int64_t exponent = 0;
      const auto code =
          std::from_chars(written.data(), written.data() + written.size(), exponent).ec;
      if (code != std::errc()) return !written.starts_with('-');  // beyond 64 bits
      power += exponent;
    }
    return power > 0;
  }

  void put(std::string_view json, std::size_t at, std::size_t size, int which,
           std::string_view name) {
    if (text_.empty()) {
      text_ = json;
      choose(json, name);
    }
    const std::string& stand_in = names_[static_cast<std::size_t>(which)];
    text_.replace(at, size, stand_in + std::string(size - stand_in.size(), ' '));
  }

  // Three numbers of three bytes, such as 3e7, that stand nowhere in the text.
  void choose(std::string_view json, std::string_view name) {
    std::size_t found = 0;
    for (const char e : {'e', 'E'})
      for (char a = '0'; a <= '9'; ++a)
        for (char b = '0'; b <= '9' && found < names_.size(); ++b)
          if (const std::string s{a, e, b}; json.find(s) == std::string_view::npos)
            names_[found++] = s;
    require(found == names_.size(), name,
            ": JSON has NaN or Infinity beside every number of the form 1e1");
  }

  std::string text_;
  std::array<std::string, 3> names_;
};

}  // namespace io::detail
CASA_NAMESPACE_END
