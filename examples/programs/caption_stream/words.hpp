// Token ids as words: by the folder's tokenizer.json, or by the list "vocab" of its config.json.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "casa/json/json.hpp"
#include "casa/text/tokenizer.hpp"
#include "support/word_list.hpp"

class Words {
 public:
  Words(const std::string& folder, casa::Index vocab_size) : vocab_size_(vocab_size) {
    if (std::filesystem::exists(folder + "/tokenizer.json")) {
      tokenizer_.emplace(folder);
      return;
    }
    const casa::io::Json config =
        casa::io::read_json(folder + "/config.json", casa::io::python_json({}));
    if (const auto list = config.find_set("vocab")) vocab_ = program::WordList(*list);
  }

  /// The ids of a text. Words of a "vocab" follow each other without spaces.
  std::vector<int> ids(std::string_view text) const {
    if (!tokenizer_) return vocab_.ids(text);
    std::vector<int> found = tokenizer_->encode(text, false);
    tokenizer_->require_rows(found, vocab_size_);
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
      const std::string* word = words_.vocab_.word(id);
      return word ? *word : casa::text("<", id, ">");
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
  program::WordList vocab_;
};
