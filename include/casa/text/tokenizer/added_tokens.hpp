// Tokens that stand beside the model's vocabulary (special or not) and are found in the text before
// the model sees it.
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/text/tokenizer/normalize.hpp"
#include "casa/text/tokenizer/regex.hpp"
#include "casa/text/tokenizer/utf8.hpp"
#include "casa/text/tokenizer/vocabulary.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// One entry of "added_tokens".
struct AddedToken {
  int id = 0;                ///< the token's id
  std::string content = {};  ///< its text
  bool single_word = false;  ///< only where no word character stands beside it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space after it
  bool normalized = false;   ///< looked for after the normalizer, in its normalized form
  bool special = false;      ///< left out where skip_special is asked for
};

namespace detail {

/// Finds tokens in a text: from left to right, at each place the longest.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  /// Finds the tokens in a text that `normalizer` has normalised. If two tokens normalise to the
  /// same text, the special one wins, else the earlier.
  AddedTokenFinder(std::vector<AddedToken> tokens, const Normalizer& normalizer)
      : tokens_(std::move(tokens)),
        word_(std::in_place, R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])", "single_word",
              RegexLimits{}) {
    std::stable_partition(tokens_.begin(), tokens_.end(),
                          [](const AddedToken& t) { return t.special; });
    StringTable contents;
    std::vector<int> token_of;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const std::string content = normalizer(tokens_[i].content);
      if (!content.empty() && contents.add(content) == token_of.size())
        token_of.push_back(static_cast<int>(i));
    }
    std::vector<std::pair<std::string_view, int>> strings;
    for (std::size_t i = 0; i < token_of.size(); ++i)
      strings.emplace_back(contents[i], token_of[i]);
    contents_ = ByteTrie(std::move(strings));
  }

  bool has_special() const { return !tokens_.empty() && tokens_.front().special; }
  /// Does any special token stand in the text?
  bool finds_special(std::string_view text) const {
    bool found = false;
    split(
        text, {}, [](std::size_t, std::size_t) {},
        [&](const AddedToken& token) { found |= token.special; });
    return found;
  }

  /// on_text(begin, end) for each stretch without a token, on_token(token) for each token, in
  /// their order. In the stretches `plain` (in order, not overlapping) special tokens are text like
  /// any other, and none reaches into them or out of them; other tokens are found everywhere.
  template <class OnText, class OnToken>
  void split(std::string_view text, std::span<const TextRange> plain, OnText on_text,
             OnToken on_token) const {
    std::size_t done = 0;
    if (!tokens_.empty()) {
      for (std::size_t i = 0; i < text.size();) {
        while (!plain.empty() && plain.front().end <= i) plain = plain.subspan(1);
        const bool inside = !plain.empty() && plain.front().begin <= i;
        const std::size_t edge = plain.empty() ? text.size()
                                 : inside      ? plain.front().end
                                               : plain.front().begin;
        Found found = longest(text, i);
        if (found.size > 0 && found.token->special && i + found.size > edge)
          found = longest(text.substr(0, edge), i);
        if (found.size == 0) {
          ++i;
          continue;
        }
        const AddedToken* token = found.token;
        std::size_t begin = i, end = i + found.size;
        i = end;
        if (token->special && inside) continue;
        if (token->single_word && (word_ends(text, begin) || word_begins(text, end))) continue;
        if (token->lstrip) {
          while (begin > done && is_white_space(code_point(text, previous_character(text, begin))))
            begin = previous_character(text, begin);
          begin = (std::max)(begin, done);
        }
        if (token->rstrip)
          while (end < text.size() && is_white_space(code_point(text, end)))
            end += utf8_size(text[end]);
        if (begin >= end) continue;  // the token before took these bytes as its white space
        if (done < begin) on_text(done, begin);
        on_token(*token);
        done = end;
      }
    }
    if (done < text.size()) on_text(done, text.size());
  }

 private:
  struct Found {
    std::size_t size;
    const AddedToken* token;
  };
  Found longest(std::string_view text, std::size_t at) const {
    Found found = {0, nullptr};
    ByteTrie::Node node = contents_.begin(text[at]);
    for (std::size_t i = at + 1; node != 0; ++i) {
      if (const int t = contents_.value(node); t >= 0)
        found = {i - at, &tokens_[static_cast<std::size_t>(t)]};
      if (i == text.size()) break;
      node = contents_.next(node, text[i]);
    }
    return found;
  }
  bool is_word(std::string_view character) const {
    return Regex::Matcher(*word_).find(character, 0).has_value();
  }
  bool word_begins(std::string_view text, std::size_t at) const {
    return at < text.size() && is_word(text.substr(at, utf8_size(text[at])));
  }
  bool word_ends(std::string_view text, std::size_t at) const {
    return at > 0 && word_begins(text, previous_character(text, at));
  }

  std::vector<AddedToken> tokens_;  // the special ones first
  ByteTrie contents_;
  std::optional<Regex> word_;
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
