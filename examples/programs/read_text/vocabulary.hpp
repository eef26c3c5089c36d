// The letters of a text reader: the list "vocab" of its config.json.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "casa/json/json.hpp"
#include "support/reader.hpp"

namespace read_text {

class Vocabulary {
 public:
  /// casa::error that names the file for a list that is missing, or lacks <start> or <end>.
  explicit Vocabulary(const std::string& folder) : file_(folder + "/config.json") {
    const casa::io::Json config = casa::io::read_json(file_, casa::io::python_json({}));
    for (const auto& word : config.at("vocab").elements()) words_.emplace_back(word.as_string());
    spelling_ = {.begin = id("<start>"), .end = id("<end>"), .most_tokens = 72};
  }
  /// Texts are what stands between <start> and <end>, at most 72 tokens.
  const program::Spelling& spelling() const { return spelling_; }
  /// A caption without its begin and end. Throws casa::error for an id that the list has no word
  /// for.
  std::string text(const program::Ids& caption) const {
    std::string s;
    for (const int id : caption) {
      casa::require(id >= 0 && static_cast<std::size_t>(id) < words_.size(), file_,
                    ": vocab has no word for id ", id);
      if (id != spelling_.begin && id != spelling_.end) s += words_[static_cast<std::size_t>(id)];
    }
    return s;
  }

 private:
  int id(std::string_view word) const {
    const auto found = std::ranges::find(words_, word);
    casa::require(found != words_.end(), file_, ": vocab has no ", word,
                  ", between which and its partner a reader's texts stand");
    return static_cast<int>(found - words_.begin());
  }

  std::string file_;
  std::vector<std::string> words_;
  program::Spelling spelling_;
};

/// A model and its letters.
struct TextReader {
  std::string name;  ///< the last part of its folder
  Vocabulary vocabulary;
  program::Reader reader;

  explicit TextReader(const std::string& folder)
      : name(std::filesystem::path(folder).lexically_normal().filename().string()),
        vocabulary(folder),
        reader(program::load_reader(folder, vocabulary.spelling())) {
    if (name.empty()) name = folder;
  }
  /// Every caption of a reading as text.
  std::vector<std::string> texts(const program::Reading& reading) const {
    std::vector<std::string> all;
    for (const program::Ids& caption : reading.captions) all.push_back(vocabulary.text(caption));
    return all;
  }
};

}  // namespace read_text
