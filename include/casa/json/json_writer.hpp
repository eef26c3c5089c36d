// JSON as text, written value by value: escaped, deterministic (the same calls give the same
// bytes).
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/json/floating_text.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// Length of the UTF-8 character at the front of s, 0 if there is none (RFC 3629: no surrogates, no
/// overlong forms, nothing above U+10FFFF).
inline std::size_t utf8_length(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  if (s.empty()) return 0;
  const unsigned c = byte(0);
  if (c < 0x80) return 1;
  const std::size_t n = c >= 0xc2 && c <= 0xdf   ? 2
                        : c >= 0xe0 && c <= 0xef ? 3
                        : c >= 0xf0 && c <= 0xf4 ? 4
                                                 : 0;
  if (n == 0 || s.size() < n) return 0;
  const unsigned lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
  const unsigned hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
  if (byte(1) < lo || byte(1) > hi) return 0;
  for (std::size_t i = 2; i < n; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  return n;
}

/// s as a JSON string with its quotes. casa::error where s is not UTF-8.
inline void append_json_string(std::string& out, std::string_view s) {
  constexpr char hex[] = "0123456789abcdef";
  out += '"';
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t n = utf8_length(s.substr(i));
    require(n > 0, "JSON string ", casa::quoted(s), ": byte ", i, " is not UTF-8");
    const auto c = static_cast<unsigned char>(s[i]);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += s[i];
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x20 || c == 0x7f) {
      out += "\\u00";
      out += hex[c >> 4];
      out += hex[c & 15];
    } else {
      out.append(s, i, n);
    }
    i += n;
  }
  out += '"';
}

}  // namespace detail

/// Builds one JSON text. w.begin_object(); w.key("ids"); w.begin_array(); w.value(1); ... w.str().
/// `indent` > 0 puts each member and element on its own line. Calls out of order are casa::error.
class JsonWriter {
 public:
  /// `indent`: spaces for each level; 0 writes everything on one line.
  explicit JsonWriter(int indent = 0) : indent_(indent) {}

  /// Begins an object as the next value.
  JsonWriter& begin_object() { return begin('{'); }
  /// Ends the object that was begun last.
  JsonWriter& end_object() { return end('{', '}'); }
  /// Begins an array as the next value.
  JsonWriter& begin_array() { return begin('['); }
  /// Ends the array that was begun last.
  JsonWriter& end_array() { return end('[', ']'); }

  /// The key of the next value, inside an object. Throws casa::error if it is not UTF-8.
  JsonWriter& key(std::string_view k) {
    require(!open_.empty() && open_.back().bracket == '{' && !has_key_,
            "JsonWriter: key outside of an object");
    separate();
    detail::append_json_string(out_, k);
    out_ += indent_ > 0 ? ": " : ":";
    has_key_ = true;
    return *this;
  }

  /// Writes null.
  JsonWriter& null() { return raw("null"); }
  /// Writes true or false.
  JsonWriter& value(bool v) { return raw(v ? "true" : "false"); }
  /// Writes an integer.
  template <std::integral I>
  requires(!std::same_as<I, bool>) JsonWriter& value(I v) { return raw(std::to_string(v)); }
  /// The shortest text that reads back as the same number. casa::error for infinity and NaN.
  template <std::floating_point F>
  JsonWriter& value(F v) {
    require(std::isfinite(v), "JSON has no number ", v);
    const std::string s = detail::shortest_text(v);
    const bool whole = s.find_first_of(".e") == std::string::npos;
    return raw(whole ? s + ".0" : s);
  }
  /// Writes a string with its quotes, escaped. Throws casa::error if it is not UTF-8.
  JsonWriter& value(std::string_view v) {
    std::string s;
    detail::append_json_string(s, v);
    return raw(s);
  }
  /// Writes a string; so that a literal does not become a bool.
  JsonWriter& value(const char* v) { return value(std::string_view(v)); }
  /// Writes a string.
  JsonWriter& value(const std::string& v) { return value(std::string_view(v)); }
  /// A value as parse_json returned it (any class with its accessors). NaN and Infinity, where the
  /// rules took them, are written as they were read.
  template <class J>
  requires requires(const J& j) { j.items(), j.elements(); }
  JsonWriter& value(const J& j) {
    if (j.is_object()) {
      begin_object();
      for (const auto& [k, v] : j.items()) key(k).value(v);
      return end_object();
    }
    if (j.is_array()) {
      begin_array();
      for (const auto& v : j.elements()) value(v);
      return end_array();
    }
    if (j.is_null()) return null();
    if (j.is_bool()) return value(j.as_bool());
    if (j.is_string()) return value(j.as_string());
    if (j.is_integer() && j.kind() == J::Kind::integer) return value(j.as_int());
    if (j.is_integer()) return value(j.as_uint());
    if (!j.is_null() && !j.is_finite()) return raw(j.describe());
    return value(j.as_number());
  }
  /// A key and its value.
  template <class V>
  JsonWriter& member(std::string_view k, const V& v) {
    return key(k).value(v);
  }

  /// The finished text.
  const std::string& str() const {
    require(open_.empty() && !out_.empty(), "JsonWriter: the text is not finished");
    return out_;
  }

 private:
  struct Level {
    char bracket;
    bool empty;
  };

  void separate() {
    if (open_.empty()) {
      require(out_.empty(), "JsonWriter: a second value at top level");
      return;
    }
    if (!open_.back().empty) out_ += ',';
    open_.back().empty = false;
    new_line();
  }
  void new_line() {
    if (indent_ <= 0) return;
    out_ += '\n';
    out_.append(open_.size() * static_cast<std::size_t>(indent_), ' ');
  }
  void before_value() {
    if (has_key_) {
      has_key_ = false;
      return;
    }
    require(open_.empty() || open_.back().bracket == '[', "JsonWriter: a value without a key");
    separate();
  }
  JsonWriter& raw(std::string_view s) {
    before_value();
    out_ += s;
    return *this;
  }
  JsonWriter& begin(char bracket) {
    before_value();
    out_ += bracket;
    open_.push_back({bracket, true});
    return *this;
  }
  JsonWriter& end(char bracket, char closing) {
    require(!open_.empty() && open_.back().bracket == bracket && !has_key_,
            "JsonWriter: an end without its beginning");
    const bool empty = open_.back().empty;
    open_.pop_back();
    if (!empty) new_line();
    out_ += closing;
    return *this;
  }

  int indent_;
  bool has_key_ = false;
  std::vector<Level> open_;
  std::string out_;
};

}  // namespace io
CASA_NAMESPACE_END
