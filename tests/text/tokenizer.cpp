#include "casa/text/tokenizer.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "golden.hpp"
#include "text/small_tokenizer.hpp"

using namespace casa::io;

namespace {

std::vector<int> ints(const Json& list) {
  std::vector<int> v;
  for (const Json& id : list.elements()) v.push_back(static_cast<int>(id.as_int()));
  return v;
}

bool is_utf8(const std::string& s) { return detail::find_invalid_utf8(s) == std::string::npos; }

/// The pieces that a stream gives, the rest at the end included.
std::vector<std::string> stream(const Tokenizer& tokenizer, const std::vector<int>& ids,
                                bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::vector<std::string> pieces;
  for (const int id : ids) pieces.push_back(decoder.push(id));
  pieces.push_back(decoder.finish());
  return pieces;
}

std::string joined(const std::vector<std::string>& pieces) {
  std::string all;
  for (const std::string& piece : pieces) all += piece;
  return all;
}

std::string random_text(std::mt19937& random, std::size_t size) {
  constexpr std::array<char32_t, 8> last = {0x7f,  0x7f,  0xff,   0x36f,
                                            0x3ff, 0xfff, 0xd7ff, 0x10ffff};
  std::string s;
  for (std::size_t i = 0; i < size; ++i) {
    const auto c = static_cast<char32_t>(random() % (last[random() % last.size()] + 1));
    detail::append_utf8(s, c >= 0xd800 && c < 0xe000 ? U' ' : c);
  }
  return s;
}

Json cases_of(const std::filesystem::path& folder, const char* file) {
  return read_json((folder / file).string(), {.object_root = false});
}

}  // namespace

TEST_CASE("ids and text are those of the reference, in every golden case") {
  for (const auto& folder : golden::folders("tokenizer_")) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder.string());
    int cases = 0;
    for (const Json& c : cases_of(folder, "cases.json").elements()) {
      CAPTURE(c.at("name").as_string());
      const std::string& text = c.at("text").as_string();
      const std::vector<int> ids = ints(c.at("ids"));
      CHECK(tokenizer.encode(text, false) == ids);
      CHECK(tokenizer.encode(text) == ints(c.at("ids_with_special")));
      CHECK(tokenizer.decode(ids) == c.at("decoded").as_string());
      for (const std::string& piece : stream(tokenizer, ids, false)) CHECK(is_utf8(piece));
      CHECK(joined(stream(tokenizer, ids, false)) == c.at("decoded").as_string());
      ++cases;
    }
    CHECK(cases > 0);
  }
}

TEST_CASE("ids that no text gives are decoded as by the reference") {
  for (const auto& folder : golden::folders("tokenizer_")) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder.string());
    int cases = 0;
    for (const Json& c : cases_of(folder, "decode_cases.json").elements()) {
      CAPTURE(c.at("name").as_string());
      const std::vector<int> ids = ints(c.at("ids"));
      CHECK(tokenizer.decode(ids) == c.at("decoded").as_string());
      CHECK(tokenizer.decode(ids, true) == c.at("decoded_skip_special").as_string());
      CHECK(joined(stream(tokenizer, ids, false)) == c.at("decoded").as_string());
      CHECK(joined(stream(tokenizer, ids, true)) == c.at("decoded_skip_special").as_string());
      ++cases;
    }
    CHECK(cases > 0);
  }
}

TEST_CASE(
    "a stream cut off anywhere has given the text of what it was given, in whole characters") {
  std::mt19937 random(71);
  for (const auto& folder : golden::folders("tokenizer_")) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder.string());
    for (int round = 0; round < 20; ++round) {
      CAPTURE(round);
      std::vector<int> ids(random() % 30);
      for (int& id : ids)
        id = static_cast<int>(random() % static_cast<unsigned>(tokenizer.vocab_size()));
      for (std::size_t cut = 0; cut <= ids.size(); ++cut) {
        const std::vector<int> begin(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(cut));
        for (const bool skip : {false, true}) {
          const auto pieces = stream(tokenizer, begin, skip);
          CHECK(joined(pieces) == tokenizer.decode(begin, skip));
          for (const std::string& piece : pieces) CHECK(is_utf8(piece));
        }
      }
    }
  }
}

TEST_CASE("a stream of a million steps ends as it began") {
  const Tokenizer tokenizer = small::make(small::byte_level());
  StreamDecoder decoder(tokenizer);
  std::size_t size = 0;
  for (int i = 0; i < 1'000'000; ++i) size += decoder.push(i % 2 == 0 ? 0xc3 : 0xa9).size();
  CHECK(size == 1'000'000);  // e acute in two bytes, each time
  CHECK(decoder.push(0xc3).empty());
  CHECK(decoder.finish() == "\xef\xbf\xbd");
  CHECK(decoder.push('a') == "a");  // anew after finish
}

TEST_CASE("any text comes back from byte-level ids") {
  std::mt19937 random(72);
  const Tokenizer tokenizer = small::make(small::byte_level());
  for (int round = 0; round < 200; ++round) {
    const std::string text = random_text(random, random() % 60);
    CAPTURE(round);
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  }
}

TEST_CASE("one tokenizer serves several threads") {
  const auto folder = golden::folders("tokenizer_").front();
  const Tokenizer tokenizer(folder.string());
  std::mt19937 random(73);
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i) texts.push_back(random_text(random, 200));
  std::vector<std::vector<int>> alone;
  for (const auto& text : texts) alone.push_back(tokenizer.encode(text));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& count : wrong)
    threads.emplace_back([&] {
      for (std::size_t i = 0; i < texts.size(); ++i)
        count += tokenizer.encode(texts[i]) != alone[i];
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("tokens and ids are looked up both ways") {
  const Tokenizer tokenizer = small::make(small::byte_level());
  CHECK(tokenizer.vocab_size() == 261);
  CHECK(tokenizer.find("abc") == 257);
  CHECK(tokenizer.find("<eos>") == 260);
  CHECK(tokenizer.at("<eos>") == 260);
  CHECK_FALSE(tokenizer.find("xyz"));
  CHECK(tokenizer.token(258) == "bc");
  CHECK(tokenizer.is_special(260));
  CHECK_FALSE(tokenizer.is_special(257));
  CHECK_FALSE(tokenizer.is_special(-1));
  CHECK_THROWS_WITH_AS(tokenizer.at("xyz"), "Tokenizer: no token \"xyz\"", casa::error);
}

TEST_CASE("what is no id, no text or no fit is an error") {
  const Tokenizer tokenizer = small::make(small::byte_level());
  for (const int id : {-1, 261, 2'147'483'647, -2'147'483'647 - 1}) {
    CAPTURE(id);
    CHECK_THROWS_AS(tokenizer.decode(std::vector{65, id}), casa::error);
    CHECK_THROWS_AS(tokenizer.token(id), casa::error);
    CHECK_THROWS_AS(StreamDecoder(tokenizer).push(id), casa::error);
  }
  CHECK_THROWS_WITH_AS(tokenizer.encode("ab\xff"), "Tokenizer::encode: text is not UTF-8 at byte 2",
                       casa::error);
  CHECK_THROWS_AS(tokenizer.encode("\xed\xa0\x80"), casa::error);  // a surrogate
  CHECK_THROWS_AS(tokenizer.encode("ab\xe2\x82"), casa::error);    // cut
  TokenizerOptions options;
  options.limits.text_bytes = 8;
  CHECK_NOTHROW(small::make(small::byte_level(), options).encode("12345678"));
  CHECK_THROWS_AS(small::make(small::byte_level(), options).encode("123456789"), casa::error);
  CHECK_THROWS_AS(tokenizer.encode("abc", true, std::vector<TextRange>{{0, 4}}), casa::error);
  CHECK_THROWS_AS(tokenizer.encode("abc", true, std::vector<TextRange>{{2, 1}}), casa::error);
  CHECK_THROWS_AS(tokenizer.encode("abc", true, std::vector<TextRange>{{1, 2}, {1, 3}}),
                  casa::error);
}

TEST_CASE("a token beyond the embedding is an error when it is met") {
  const Tokenizer tokenizer = small::make(small::byte_level());
  CHECK_NOTHROW(tokenizer.require_rows(tokenizer.encode("abc"), 260));
  CHECK_THROWS_WITH_AS(tokenizer.require_rows(tokenizer.encode("abc<eos>"), 260),
                       "Tokenizer: the token \"<eos>\" has the id 260, but the model's embedding "
                       "has 260 rows",
                       casa::error);
  CHECK_THROWS_AS(tokenizer.require_rows(std::vector{-1}, 260), casa::error);
}

TEST_CASE("an id that no token has is no text and no error") {
  auto parts = small::byte_level();
  std::string& model = parts["model"];
  model.replace(model.find("\"abc\":257"), 9, "\"abc\":270");
  const Tokenizer tokenizer = small::make(parts);
  CHECK(tokenizer.vocab_size() == 271);
  CHECK(tokenizer.encode("abc") == std::vector{270});
  CHECK_FALSE(tokenizer.has_token(257));
  CHECK_FALSE(tokenizer.has_token(271));
  CHECK_THROWS_AS(tokenizer.token(257), casa::error);
  CHECK_THROWS_AS(tokenizer.token(269), casa::error);
  CHECK(tokenizer.decode(std::vector{65, 257, 270, 265}) == "Aabc");
  StreamDecoder decoder(tokenizer);
  CHECK(decoder.push(257) == "");
  CHECK(decoder.push(270) == "abc");
}

TEST_CASE("a special token that is marked normalized is not missed in silence") {
  auto parts = small::byte_level();
  parts["added_tokens"] = R"([{"id":260,"content":"<eos>","single_word":false,"lstrip":false,)"
                          R"("rstrip":false,"normalized":true,"special":true}])";
  const Tokenizer tokenizer = small::make(parts);
  CHECK(tokenizer.encode("<eos>") == std::vector{260});
  CHECK(tokenizer.encode_plain("<eos>").size() == 5);
  const std::vector<TextRange> second = {{5, 10}}, last = {{5, 6}};
  CHECK_THROWS_AS(tokenizer.encode("<eos><eos>", true, second), casa::error);
  CHECK(tokenizer.encode("abcab<", true, last) == tokenizer.encode("abcab<"));
}

TEST_CASE("a match that costs too much is an error of that call") {
  auto parts = small::byte_level();
  parts["pre_tokenizer"] =
      R"({"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated","invert":false,)"
      R"("pattern":{"Regex":"^(a+)+$"}},{"type":"ByteLevel","add_prefix_space":false}]})";
  TokenizerOptions options;
  CHECK_THROWS_AS(small::make(parts), casa::error);  // a stranger's pattern
  options.any_pattern = true;
  const Tokenizer tokenizer = small::make(parts, options);
  CHECK_THROWS_AS(tokenizer.encode(std::string(60, 'a') + "b"), casa::error);
  CHECK(tokenizer.encode("b").size() == 1);  // the tokenizer goes on
}
