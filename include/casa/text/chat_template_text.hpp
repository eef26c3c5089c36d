// The text of a Jinja chat template reduced to what it says, so that spellings of one template that
// render alike are one text, and the number by which that text is known.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// Reads a template as transformers has Jinja read it (trim_blocks, lstrip_blocks) and writes it in
/// one way: no comments, no white space inside tags, one kind of quotes, a.b as a['b'], and each
/// operand of a sum of strings as an output of its own. Nothing is evaluated.
class TemplateReducer {
 public:
  explicit TemplateReducer(std::string_view text) {
    for (std::size_t i = 0; i < text.size(); ++i) {  // newlines as Jinja counts them
      text_ += text[i] == '\r' ? '\n' : text[i];
      if (text.substr(i).starts_with("\r\n")) ++i;
    }
    if (text_.ends_with('\n')) text_.pop_back();
  }

  std::string reduced() {
    const std::string_view all = text_;
    std::size_t at = 0;
    bool strip = false, trim = false;  // what the tag before the data does to the data
    while (at < all.size()) {
      const std::size_t open = find_open(at);
      std::string_view data = all.substr(at, open - at);
      if (trim && data.starts_with('\n')) data.remove_prefix(1);
      if (strip) data.remove_prefix((std::min)(data.find_first_not_of(kWhite), data.size()));
      if (open == all.size()) {
        literal(data);
        break;
      }
      const char kind = all[open + 1];
      std::size_t begin = open + 2;
      const char sign = begin < all.size() ? all[begin] : ' ';
      if (sign == '-' || sign == '+') ++begin;
      if (sign == '-') {
        data = data.substr(0, data.find_last_not_of(kWhite) + 1);
      } else if (sign != '+' && kind != '{') {
        // A block that stands alone on its line takes the white space before it away.
        const std::size_t last = data.find_last_not_of(" \t");
        const bool at_line_start =
            last == data.npos ? open == data.size() || at_begin(data, open) : data[last] == '\n';
        if (at_line_start) data = data.substr(0, last + 1);
      }
      literal(data);
      const std::size_t close = find_close(begin, kind);
      std::size_t end = close;
      strip = end > begin && all[end - 1] == '-';
      const bool plus = end > begin && all[end - 1] == '+' && kind != '{';
      if (strip || plus) --end;
      trim = kind != '{' && !plus;
      if (kind != '#') tag(kind, all.substr(begin, end - begin));
      at = close + 2;
    }
    flush();
    return std::move(out_);
  }

 private:
  static constexpr std::string_view kWhite = " \t\n\r\f\v";
  using Tokens = std::vector<std::string>;

  std::size_t find_open(std::size_t at) const {
    for (; (at = text_.find('{', at)) != std::string::npos; ++at)
      if (at + 1 < text_.size() && std::string_view("{%#").find(text_[at + 1]) != std::string::npos)
        return at;
    return text_.size();
  }
  /// Does the text between the last newline and `open` hold nothing but `data`?
  bool at_begin(std::string_view data, std::size_t open) const {
    const std::size_t begin = open - data.size();
    return begin == 0 || text_[begin - 1] == '\n';
  }
  /// The place of "}}", "%}" or "#}"; strings may hold them, except in comments.
  std::size_t find_close(std::size_t at, char kind) const {
    const std::string end = {kind == '{' ? '}' : kind, '}'};
    int depth = 0;
    for (; at + 1 < text_.size(); ++at) {
      const char c = text_[at];
      if (depth == 0 && text_.compare(at, 2, end) == 0) return at;
      if (kind == '#') continue;
      if (c == '\'' || c == '"') at = string_end(text_, at) - 1;
      if (c == '{' || c == '[' || c == '(') ++depth;
      if (c == '}' || c == ']' || c == ')') --depth;
    }
    fail("chat template: a tag does not end");
  }
  /// One past the closing quote of the string that begins at `at`.
  static std::size_t string_end(std::string_view s, std::size_t at) {
    const char quote = s[at];
    for (std::size_t i = at + 1; i < s.size(); ++i) {
      if (s[i] == '\\')
        ++i;
      else if (s[i] == quote)
        return i + 1;
    }
    fail("chat template: a string does not end");
  }
  /// What a string literal stands for; of its escapes those that templates use.
  static std::string value_of(std::string_view literal) {
    std::string out;
    for (std::size_t i = 1; i + 1 < literal.size(); ++i) {
      if (literal[i] != '\\') {
        out += literal[i];
        continue;
      }
      const char c = literal[++i];
      constexpr std::string_view names = "ntr\\'\"", values = "\n\t\r\\'\"";
      const std::size_t known = names.find(c);
      if (known == names.npos)
        out.append({'\\', c});
      else
        out += values[known];
    }
    return out;
  }

  static Tokens tokens_of(std::string_view s) {
    Tokens tokens;
    const auto is_name = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    };
    for (std::size_t i = 0; i < s.size();) {
      std::size_t end = i + 1;
      if (kWhite.find(s[i]) != kWhite.npos) {
        i = end;
        continue;
      }
      if (s[i] == '\'' || s[i] == '"') {
        end = string_end(s, i);
        tokens.push_back("'" + value_of(s.substr(i, end - i)));
      } else if (is_name(s[i])) {
        while (end < s.size() && is_name(s[end])) ++end;
        const std::string name(s.substr(i, end - i));
        if (tokens.size() >= 2 && tokens.back() == "." && !is_number(tokens[tokens.size() - 2])) {
          tokens.back() = "[";
          tokens.push_back("'" + name);
          tokens.push_back("]");
        } else {
          tokens.push_back(name);
        }
      } else {
        constexpr std::array<std::string_view, 6> two = {"==", "!=", "<=", ">=", "//", "**"};
        for (const std::string_view op : two)
          if (s.substr(i, 2) == op) end = i + 2;
        tokens.emplace_back(s.substr(i, end - i));
      }
      i = end;
    }
    return tokens;
  }
  static bool is_number(const std::string& token) { return token[0] >= '0' && token[0] <= '9'; }

  void tag(char kind, std::string_view inside) {
    const Tokens tokens = tokens_of(inside);
    if (kind == '%') return put('%', tokens);
    // A sum with a string literal in it is a sum of strings: its operands follow one another.
    std::vector<Tokens> operands(1);
    bool has_string = false, only_sum = true;
    int depth = 0;
    for (const std::string& t : tokens) {
      if (t == "(" || t == "[" || t == "{") ++depth;
      if (t == ")" || t == "]" || t == "}") --depth;
      if (depth == 0 && (t == "if" || t == "or" || t == "and" || t == "not" || t == "in" ||
                         t == "is" || t == "~" || t == "*" || t == "-" || t == "==" || t == "!="))
        only_sum = false;
      if (depth == 0 && t == "+") {
        operands.emplace_back();
      } else {
        operands.back().push_back(t);
      }
    }
    for (const Tokens& o : operands) has_string |= o.size() == 1 && o[0][0] == '\'';
    if (!has_string || !only_sum) return put('{', tokens);
    for (const Tokens& o : operands) {
      if (o.size() == 1 && o[0][0] == '\'')
        literal(std::string_view(o[0]).substr(1));
      else
        put('{', o);
    }
  }

  void literal(std::string_view data) { data_ += data; }
  void flush() {
    if (!data_.empty()) out_ += casa::text("D", data_.size(), " ", data_, "\n");
    data_.clear();
  }
  void put(char kind, const Tokens& tokens) {
    flush();
    out_ += kind;
    for (const std::string& t : tokens) out_ += casa::text(t.size(), " ", t);
    out_ += '\n';
  }

  std::string text_, out_, data_;
};

}  // namespace detail

/// The number of a chat template's text: equal for spellings that Jinja renders alike as far as
/// white space, quotes and comments go. Throws casa::error for a text that is no template.
inline std::uint64_t chat_template_hash(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : detail::TemplateReducer(text).reduced())
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace io
CASA_NAMESPACE_END
