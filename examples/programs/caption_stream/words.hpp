// Token ids as words: by the folder's tokenizer.json, or by the list "vocab" of its config.json.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "casa/json/json.hpp"
#include "casa/text/tokenizer.hpp"

class Words {
 public:
  Words(const std::string& folder, casa::Index vocab_size) : vocab_size_(vocab_size) {
    if (std::filesystem::exists(folder + "/tokenizer.json")) {
      tokenizer_.emplace(folder);
      return;
    }
    const casa::io::Json config =
        casa::io::read_json(folder + "/config.json", casa::io::python_json({}));
    if (const auto list = config.find_set("vocab"))
      for (const auto& word : list->elements()) vocab_.emplace_back(word.as_string());
  }

  /// The ids of a text. Words of a "vocab" follow each other without spaces.
  std::vector<int> ids(std::string_view text) const {
    std::vector<int> found;
    if (tokenizer_) {
      found = tokenizer_->encode(text, false);
      tokenizer_->require_rows(found, vocab_size_);
      return found;
    }
    while (!text.empty()) {
      int best = -1;
      for (std::size_t i = 0; i < vocab_.size(); ++i)
        if (!vocab_[i].empty() && text.starts_with(vocab_[i]) &&
            (best < 0 || vocab_[i].size() > vocab_[static_cast<std::size_t>(best)].size()))
          best = static_cast<int>(i);
      casa::require(best >= 0, "the model has no token for ", casa::quoted(text));
      found.push_back(best);
      text.remove_prefix(vocab_[static_cast<std::size_t>(best)].size());
    }
    return found;
  }

  /// Ids as text, piece by piece.
  class Speaker {
   public:
    explicit Speaker(const Words& words) : words_(words) {
      if (words.tokenizer_) decoder_.emplace(*words.tokenizer_);
    }
    std::string push(int id) {
      // The embedding may have rows that no token names.
      if (decoder_) return words_.tokenizer_->has_token(id) ? decoder_->push(id) : std::string();
      const auto u = static_cast<std::size_t>(id);
      return u < words_.vocab_.size() ? words_.vocab_[u] : casa::text("<", id, ">");
    }
    std::string finish() { return decoder_ ? decoder_->finish() : std::string(); }

   private:
    const Words& words_;
    std::optional<casa::io::StreamDecoder> decoder_;
  };

  bool has_tokenizer() const { return tokenizer_.has_value(); }

 private:
  casa::Index vocab_size_;
  std::optional<casa::io::Tokenizer> tokenizer_;
  std::vector<std::string> vocab_;
};
