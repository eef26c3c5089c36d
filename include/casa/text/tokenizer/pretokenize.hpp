// How a text is cut into words, which a model then cuts into tokens.
#pragma once

#include <utf8proc.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/text/tokenizer/regex.hpp"
#include "casa/text/tokenizer/utf8.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// What becomes of the matches of a split.
enum class SplitBehavior { removed, isolated, contiguous, merged_with_previous, merged_with_next };

/// When Metaspace writes its mark in front of a text: never, only at the beginning of what is
/// encoded, or before every stretch between added tokens.
enum class PrependScheme { never, first, always };

/// One step of a pre-tokenizer; each cuts the pieces of the step before.
struct PretokenizerStep {
  enum class Kind { split, digits, metaspace, prefix_space };
  Kind kind;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;    ///< of split: what lies between the matches counts as match
  Pattern pattern = {};   ///< of split
  std::string mark = {};  ///< of metaspace: stands for the space
  PrependScheme prepend = PrependScheme::always;  ///< of metaspace
  bool cut = true;                                ///< of metaspace: a word begins at each mark
};

/// Numbers as Unicode has them: Nd, Nl and No.
inline bool is_number(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

/// The steps, with the memory of one caller.
class Pretokenizer {
 public:
  explicit Pretokenizer(const std::vector<PretokenizerStep>& steps) : steps_(&steps) {
    for (const PretokenizerStep& step : steps) finders_.emplace_back(step.pattern);
  }

  /// word(piece) for each piece that is not empty, from left to right. at_start: the text stands at
  /// the beginning of what is encoded.
  template <class F>
  void operator()(std::string_view text, bool at_start, F&& word) {
    run(0, text, at_start, word);
  }

 private:
  template <class F>
  void run(std::size_t i, std::string_view text, bool at_start, F&& word) {
    if (text.empty()) return;
    if (i == steps_->size()) return word(text);
    const PretokenizerStep& step = (*steps_)[i];
    const auto piece = [&](std::size_t begin, std::size_t end) {
      run(i + 1, text.substr(begin, end - begin), at_start && begin == 0, word);
    };
    switch (step.kind) {
      case PretokenizerStep::Kind::split:
        return split(i, text, piece);
      case PretokenizerStep::Kind::digits:
        return digits(step, text, piece);
      case PretokenizerStep::Kind::prefix_space:
        if (text.starts_with(' ')) return piece(0, text.size());
        return run(i + 1, ' ' + std::string(text), at_start, word);
      case PretokenizerStep::Kind::metaspace:
        return metaspace(i, text, at_start, word);
    }
  }

  template <class Piece>
  void split(std::size_t i, std::string_view text, Piece piece) {
    const PretokenizerStep& step = (*steps_)[i];
    if (step.behavior == SplitBehavior::isolated) {  // every match and every gap is a piece
      std::size_t done = 0;
      finders_[i].for_each(text, [&](TextRange match) {
        if (done < match.begin) piece(done, match.begin);
        if (match.begin < match.end) piece(match.begin, match.end);
        done = match.end;
      });
      if (done < text.size()) piece(done, text.size());
      return;
    }
    std::vector<std::pair<TextRange, bool>> parts;
    std::size_t done = 0;
    finders_[i].for_each(text, [&](TextRange match) {
      if (done < match.begin) parts.push_back({{done, match.begin}, step.invert});
      parts.push_back({match, !step.invert});
      done = match.end;
    });
    if (done < text.size()) parts.push_back({{done, text.size()}, step.invert});
    join(parts, step.behavior, piece);
  }

  /// parts: ranges that cover the text, and whether each is a match.
  template <class Piece>
  static void join(const std::vector<std::pair<TextRange, bool>>& parts, SplitBehavior behavior,
                   Piece piece) {
    std::optional<TextRange> open;  // grows to the right
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto& [range, is_match] = parts[i];
      if (behavior == SplitBehavior::removed) {
        if (!is_match) piece(range.begin, range.end);
        continue;
      }
      bool joins = false;
      if (i > 0) {
        const bool after_match = parts[i - 1].second;
        joins = behavior == SplitBehavior::contiguous             ? is_match == after_match
                : behavior == SplitBehavior::merged_with_previous ? is_match && !after_match
                                                                  : !is_match && after_match;
      }
      if (joins) {
        open->end = range.end;
      } else {
        if (open) piece(open->begin, open->end);
        open = range;
      }
    }
    if (open) piece(open->begin, open->end);
  }

  template <class Piece>
  static void digits(const PretokenizerStep& step, std::string_view text, Piece piece) {
    const bool single = step.behavior == SplitBehavior::isolated;
    std::size_t begin = 0;
    bool in_number = false;
    for (std::size_t i = 0; i < text.size(); i += utf8_size(text[i])) {
      const bool number = is_number(code_point(text, i));
      if (i > begin && (number != in_number || (number && single))) {
        piece(begin, i);
        begin = i;
      }
      in_number = number;
    }
    if (begin < text.size()) piece(begin, text.size());
  }

  template <class F>
  void metaspace(std::size_t i, std::string_view text, bool at_start, F&& word) {
    const PretokenizerStep& step = (*steps_)[i];
    std::string s;
    s.reserve(text.size() + text.size() / 2);
    const bool prepends =
        step.prepend == PrependScheme::always || (step.prepend == PrependScheme::first && at_start);
    if (prepends && !text.starts_with(' ') && !text.starts_with(step.mark)) s += step.mark;
    for (const char c : text) {
      if (c == ' ')
        s += step.mark;
      else
        s += c;
    }
    const std::string_view all = s;
    std::size_t begin = 0;
    while (step.cut && begin < all.size()) {
      const std::size_t next = all.find(step.mark, begin + 1);
      if (next == std::string_view::npos) break;
      run(i + 1, all.substr(begin, next - begin), at_start && begin == 0, word);
      begin = next;
    }
    run(i + 1, all.substr(begin), at_start && begin == 0, word);
  }

  const std::vector<PretokenizerStep>* steps_;
  std::vector<PatternFinder> finders_;
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
