// Token ids as words: the list "vocab" of a model's config.json, for models without a tokenizer.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "casa/json/json.hpp"

namespace program {

/// Words in the order of their ids.
class WordList {
 public:
  WordList() = default;
  /// Throws casa::error for what is no array of strings.
  explicit WordList(const casa::io::Json& vocab) {
    for (const auto& word : vocab.elements()) words_.emplace_back(word.as_string());
  }

  /// The word of an id; null where there is none.
  const std::string* word(int id) const {
    const auto u = static_cast<std::size_t>(id);
    return id >= 0 && u < words_.size() ? &words_[u] : nullptr;
  }
  /// The id of a whole word, the first of its spelling.
  std::optional<int> id(std::string_view word) const {
    const auto found = std::find(words_.begin(), words_.end(), word);
    if (found == words_.end()) return std::nullopt;
    return static_cast<int>(found - words_.begin());
  }
  /// The ids of a text in which words follow each other without spaces: always the longest that
  /// fits. Throws casa::error where none does.
  std::vector<int> ids(std::string_view text) const {
    std::vector<int> found;
    while (!text.empty()) {
      const std::string* longest = nullptr;
      for (const std::string& word : words_)
        if (text.starts_with(word) && word.size() > (longest ? longest->size() : 0))
          longest = &word;
      casa::require(longest != nullptr, "the model has no token for ", casa::quoted(text));
      found.push_back(static_cast<int>(longest - words_.data()));
      text.remove_prefix(longest->size());
    }
    return found;
  }

 private:
  std::vector<std::string> words_;
};

}  // namespace program
