// Patterns in tokenizer files: literal strings and regular expressions by PCRE2, under limits.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/text/tokenizer/regex_dialect.hpp"
#include "casa/text/tokenizer/utf8.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// What one match of a regular expression may cost. More is an error of that call of encode.
struct RegexLimits {
  std::uint32_t match = 10'000'000;    ///< steps of the matcher (at most 0.13 s)
  std::uint32_t heap_kib = 64 * 1024;  ///< backtracking memory
};

/// A place in a text: bytes [begin, end).
struct TextRange {
  std::size_t begin = 0;  ///< the first byte
  std::size_t end = 0;    ///< one past the last
  friend bool operator==(const TextRange&, const TextRange&) = default;
};

namespace detail {

/// A compiled regular expression over valid UTF-8. Immutable: any number of threads may match.
class Regex {
 public:
  /// Throws casa::error where PCRE2 does not take the pattern; `name` is what the error calls it.
  Regex(std::string_view pattern, std::string_view name, const RegexLimits& limits)
      : limits_(limits), name_(name) {
    const std::string source = oniguruma_as_pcre2(pattern, name);
    int code = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(source.data()), source.size(),
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                &code, &offset, nullptr),
                pcre2_code_free_8);
    require(code_ != nullptr, name, ": regular expression ", casa::quoted(pattern),
            " is not understood: ", message(code));
    jit_ = pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  /// Memory of the matches of one caller.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex)
        : regex_(&regex),
          data_(pcre2_match_data_create_8(1, nullptr)),
          context_(pcre2_match_context_create_8(nullptr)) {
      require(data_ && context_, regex.name_, ": PCRE2 has no memory");
      pcre2_set_match_limit_8(context_.get(), regex.limits_.match);
      pcre2_set_depth_limit_8(context_.get(), regex.limits_.match);
      pcre2_set_heap_limit_8(context_.get(), regex.limits_.heap_kib);
    }
    /// The first match at or after `from`. Text before `from` is seen by lookbehind.
    std::optional<TextRange> find(std::string_view text, std::size_t from) {
      const auto* subject = reinterpret_cast<PCRE2_SPTR8>(text.data());
      int found = PCRE2_ERROR_JIT_STACKLIMIT;
      if (regex_->jit_)
        found = pcre2_jit_match_8(regex_->code_.get(), subject, text.size(), from, 0, data_.get(),
                                  context_.get());
      if (found == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its state on the heap
        found = pcre2_match_8(regex_->code_.get(), subject, text.size(), from,
                              PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data_.get(), context_.get());
      if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
      require(found >= 0, regex_->name_, ": the regular expression gave up at byte ", from, " of ",
              text.size(), ": ", message(found));
      const PCRE2_SIZE* at = pcre2_get_ovector_pointer_8(data_.get());
      return TextRange{at[0], at[1]};
    }

   private:
    struct Free {
      void operator()(pcre2_match_data_8* p) const { pcre2_match_data_free_8(p); }
      void operator()(pcre2_match_context_8* p) const { pcre2_match_context_free_8(p); }
    };
    const Regex* regex_;
    std::unique_ptr<pcre2_match_data_8, Free> data_;
    std::unique_ptr<pcre2_match_context_8, Free> context_;
  };

 private:
  static std::string message(int code) {
    std::array<PCRE2_UCHAR8, 160> words = {};
    pcre2_get_error_message_8(code, words.data(), words.size());
    return text(reinterpret_cast<const char*>(words.data()), " (PCRE2 error ", code, ")");
  }

  std::shared_ptr<pcre2_code_8> code_;
  bool jit_ = false;
  RegexLimits limits_;
  std::string name_;
};

/// How GPT-2 and all who took over its ByteLevel cut a text into words.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// The patterns that published tokenizers use (GPT-2, Qwen2, Llama 3, GPT-4o). They are known to
/// take time in proportion to the text; a stranger's pattern need not. `\p{N}{1,3}` counts as
/// `\p{N}`.
inline bool is_known_pattern(std::string_view pattern) {
  constexpr std::array<std::string_view, 3> known = {
      kGpt2Pattern,
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
      R"(|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+)"
      R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)"
      R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"};
  std::string plain(pattern);
  constexpr std::string_view counted = R"(\p{N}{1,)";
  const std::size_t at = plain.find(counted);
  if (at != std::string::npos && at + counted.size() + 1 < plain.size()) {
    const char digit = plain[at + counted.size()];
    if (digit >= '1' && digit <= '9' && plain[at + counted.size() + 1] == '}')
      plain.erase(at + 5, counted.size() - 5 + 2);
  }
  for (const std::string_view k : known)
    if (plain == k) return true;
  return false;
}

/// A literal string or a regular expression.
struct Pattern {
  std::string literal;
  std::optional<Regex> regex;
};

/// Finds a pattern again and again in one text, as the reference's iterators do: from left to
/// right, without overlaps, no empty match where the last match ended.
class PatternFinder {
 public:
  explicit PatternFinder(const Pattern& pattern) : pattern_(&pattern) {
    if (pattern.regex) matcher_.emplace(*pattern.regex);
  }
  /// f(range) for each match in text.
  template <class F>
  void for_each(std::string_view text, F f) {
    if (!matcher_) {
      const std::string& s = pattern_->literal;
      for (std::size_t at = 0; (at = text.find(s, at)) != std::string_view::npos; at += s.size())
        f(TextRange{at, at + s.size()});
      return;
    }
    std::size_t from = 0, last_end = static_cast<std::size_t>(-1);
    while (from <= text.size()) {
      const auto match = matcher_->find(text, from);
      if (!match) return;
      if (match->begin == match->end && match->end == last_end) {
        from = match->end + (match->end < text.size() ? utf8_size(text[match->end]) : 1);
        continue;
      }
      f(*match);
      from = last_end = match->end;
    }
  }

 private:
  const Pattern* pattern_;
  std::optional<Regex::Matcher> matcher_;
};

/// The most bytes that normalizer or decoder may make of a text. Without a limit a file with a
/// chain of steps that each replace a letter by two would double the text at every step.
inline constexpr std::size_t kMaxGrownBytes = std::size_t{64} << 20;

inline void require_growth(std::size_t size) {
  require(size <= kMaxGrownBytes, "Tokenizer: the text grows beyond ", kMaxGrownBytes,
          " bytes by replacements");
}

/// text with every match replaced.
inline std::string replace_all(std::string_view text, PatternFinder& pattern,
                               std::string_view content) {
  std::string out;
  std::size_t done = 0;
  pattern.for_each(text, [&](TextRange match) {
    out += text.substr(done, match.begin - done);
    out += content;
    require_growth(out.size());
    done = match.end;
  });
  out += text.substr(done);
  return out;
}

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
