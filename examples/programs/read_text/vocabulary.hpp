// The letters of a text reader: the list "vocab" of its config.json.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "casa/json/json.hpp"
#include "support/reader.hpp"
#include "support/word_list.hpp"

namespace read_text {

class Vocabulary {
 public:
  /// casa::error that names the file for a list that is missing, or lacks <start> or <end>.
  explicit Vocabulary(const std::string& folder)
      : file_(folder + "/config.json"),
        words_(casa::io::read_json(file_, casa::io::python_json({})).at("vocab")) {
    spelling_ = {.begin = id("<start>"), .end = id("<end>"), .most_tokens = 72};
  }
  /// Texts are what stands between <start> and <end>, at most 72 tokens.
  const program::Spelling& spelling() const { return spelling_; }
  /// A caption without its begin and end. Throws casa::error for an id that the list has no word
  /// for.
  std::string text(const program::Ids& caption) const {
    std::string s;
    for (const int id : caption) {
      const std::string* word = words_.word(id);
      casa::require(word != nullptr, file_, ": vocab has no word for id ", id);
      if (id != spelling_.begin && id != spelling_.end) s += *word;
    }
    return s;
  }

 private:
  int id(std::string_view word) const {
    const std::optional<int> found = words_.id(word);
    casa::require(found.has_value(), file_, ": vocab has no ", word,
                  ", between which and its partner a reader's texts stand");
    return *found;
  }

  std::string file_;
  program::WordList words_;
  program::Spelling spelling_;
};

/// A model and its letters.
struct TextReader {
  std::string name;  ///< the last part of its folder
  Vocabulary vocabulary;
  program::Reader reader;

  explicit TextReader(const std::string& folder, const casa::io::ModelOptions& options = {})
      : name(std::filesystem::path(folder).lexically_normal().filename().string()),
        vocabulary(folder),
        reader(program::load_reader(folder, vocabulary.spelling(), options)) {
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
