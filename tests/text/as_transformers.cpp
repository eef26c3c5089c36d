// What transformers loads is loaded, with its ids; special tokens of a plain text are split as by
// split_special_tokens=True. The ids stand in reference.json, written by chat_templates.py.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "casa/files/file.hpp"
#include "casa/json/json.hpp"
#include "casa/text/tokenizer.hpp"
#include "golden.hpp"

using namespace casa::io;

namespace {

Json reference() {
  return read_json((golden::repository_root().parent_path() / "text" / "reference.json").string());
}

std::vector<int> ids_of(const Json& list) {
  std::vector<int> ids;
  for (const Json& id : list.elements()) ids.push_back(static_cast<int>(id.as_int()));
  return ids;
}

}  // namespace

TEST_CASE("files that transformers loads are loaded, with its ids") {
  const std::string base(
      read_file((golden::repository_root() / "tokenizer_smollm2" / "tokenizer.json").string())
          .as_text());
  int count = 0;
  for (const Json& c : reference().at("files").elements()) {
    const std::string& name = c.at("name").as_string();
    CAPTURE(name);
    std::string file = base;
    for (const Json& edit : c.at("edits").elements()) {
      const std::string& from = edit.at(0).as_string();
      const std::size_t at = file.find(from);
      REQUIRE(at != std::string::npos);
      file.replace(at, from.size(), edit.at(1).as_string());
    }
    TokenizerOptions options;
    options.any_pattern = name.starts_with("the pattern");
    options.unknown_fields = name == "a field more";
    const Tokenizer tokenizer(parse_json(file, "tokenizer.json"), options);
    CHECK(tokenizer.encode(c.at("text").as_string()) == ids_of(c.at("ids")));
    ++count;
  }
  CHECK(count >= 37);
}

TEST_CASE("special tokens of a plain text are split as by split_special_tokens") {
  int count = 0;
  for (const Json& c : reference().at("split").elements()) {
    const std::string& folder = c.at("tokenizer").as_string();
    const std::string& text = c.at("text").as_string();
    CAPTURE(folder);
    CAPTURE(text);
    const Tokenizer tokenizer((golden::repository_root() / folder).string());
    CHECK(tokenizer.encode_plain(text, false) == ids_of(c.at("ids")));
    ++count;
  }
  CHECK(count >= 60);
}
