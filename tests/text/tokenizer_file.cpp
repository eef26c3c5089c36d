// Files that must not load, each by the name of its fault.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "casa/text/tokenizer.hpp"
#include "support/messages.hpp"
#include "support/scratch.hpp"
#include "text/small_tokenizer.hpp"

using namespace casa::io;

namespace {

/// What the error says, "" where the file loads.
std::string fault(const small::Parts& parts, const TokenizerOptions& options = {}) {
  try {
    small::make(parts, options);
  } catch (const casa::error& e) {
    return e.what();
  }
  return "";
}

small::Parts with(small::Parts parts, const std::string& key, const std::string& value) {
  parts[key] = value;
  return parts;
}

/// The byte-level file with `from` in its model replaced.
small::Parts with_model(const std::string& from, const std::string& to) {
  small::Parts parts = small::byte_level();
  std::string& model = parts["model"];
  const auto at = model.find(from);
  REQUIRE(at != std::string::npos);
  model.replace(at, from.size(), to);
  return parts;
}

std::string added(int id, const std::string& content, const std::string& rest = "") {
  return R"([{"id":)" + std::to_string(id) + R"(,"content":")" + content +
         R"(","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true)" +
         rest + "}]";
}

}  // namespace

TEST_CASE("the small files load") {
  CHECK(fault(small::byte_level()) == "");
  CHECK(fault(small::unigram()) == "");
}

TEST_CASE("what we do not do is named") {
  const auto base = small::byte_level();
  struct Case {
    const char *part, *json, *named;
  };
  const std::vector<Case> cases = {
      {"normalizer", R"({"type":"BertNormalizer"})", "\"BertNormalizer\" is not supported"},
      {"normalizer", R"({"type":"Precompiled","precompiled_charsmap":"AA=="})", "\"Precompiled\""},
      {"normalizer", R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Lowercase"}]})",
       "normalizer.normalizers[1].type: \"Lowercase\""},
      {"normalizer", R"({"type":"NFC","strength":1})",
       "normalizer.strength: 1 is not supported: an unknown field "
       "(TokenizerOptions::unknown_fields, "
       "or --unknown-fields, passes over it)"},
      {"normalizer", R"({"type":"Replace","pattern":{"String":""},"content":"x"})", "not empty"},
      {"pre_tokenizer", R"({"type":"Whitespace"})", "\"Whitespace\""},
      {"pre_tokenizer", R"({"type":"Split","pattern":{"String":"x"},"behavior":"Merged"})",
       "pre_tokenizer.behavior: \"Merged\""},
      {"pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"x+"},"behavior":"Isolated"})",
       "is not that of a known tokenizer (TokenizerOptions::any_pattern, or --any-pattern, takes "
       "it)"},
      {"pre_tokenizer", R"({"type":"Metaspace","replacement":"__"})", "expected one character"},
      {"pre_tokenizer",
       R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false},)"
       R"({"type":"Digits","individual_digits":true}]})",
       "only the last pre-tokenizer may be ByteLevel"},
      {"post_processor", R"({"type":"BertProcessing"})", "cls"},
      {"post_processor", R"({"type":"Colbert"})", "\"Colbert\""},
      {"post_processor",
       R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"B","type_id":0}}],)"
       R"("pair":[],"special_tokens":{}})",
       "post_processor.single[0]"},
      {"post_processor",
       R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
       R"({"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}})",
       "special_tokens"},
      {"post_processor",
       R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},)"
       R"({"Sequence":{"id":"A","type_id":0}}],"pair":[],)"
       R"("special_tokens":{"x":{"id":"x","ids":[-1],"tokens":["x"]}}})",
       "expected an integer in [0, 2147483647]"},
      {"decoder", R"({"type":"WordPiece","prefix":"##"})", "\"WordPiece\""},
      {"decoder", R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]})",
       "ByteFallback after ByteLevel, Fuse or Strip"},
      {"decoder", R"({"type":"Replace","pattern":{"Regex":"x"},"content":""})", "not supported"},
      {"decoder", R"({"type":"Strip","content":" ","start":-1,"stop":0})", "decoder.start"},
      {"flavour", "1", "flavour: 1 is not supported"},
      {"model", R"({"type":"WordPiece","vocab":{}})", "\"WordPiece\""},
      {"model", "[]", "expected an object"},
  };
  for (const auto& [part, value, named] : cases) {
    const std::string json = value;
    CAPTURE(json);
    const std::string said = fault(with(base, part, json));
    CAPTURE(said);
    CHECK(has(said, named));
    CHECK(has(said, "tokenizer.json"));
  }
}

TEST_CASE("a vocabulary that does not hold together is refused") {
  CHECK(has(fault(with_model("\"abc\":257", "\"abc\":256")), "id 256 has two tokens"));
  CHECK(has(fault(with_model("\"abc\":257,", "")), "no"));  // a merge has no result
  CHECK(has(fault(with_model("\"abc\":257", "\"abc\":2097152")),
            "expected an integer in [0, 2097151]"));
  CHECK(has(fault(with_model("\"abc\":257", "\"abc\":-1")), "expected an integer"));
  CHECK(has(fault(with_model("\"abc\":257", "\"abc\":2.5")), "expected an integer"));
  CHECK(has(fault(with_model("\"abc\":257", "\"ab\":257")), "duplicate key"));
  CHECK(has(fault(with(small::byte_level(), "added_tokens", added(-1, "<eos>"))),
            "expected an integer in [0, "));
}

TEST_CASE("merges must be made of tokens") {
  CHECK(has(fault(with_model("\"a b\"", "\"a x\"")), "model.merges[0]: \"ax\" is not in"));
  CHECK(has(fault(with_model("\"a b\"", "\"zz b\"")), "model.merges[0]"));
  CHECK(has(fault(with_model("\"a b\"", "\"ab\"")), "one space"));
  CHECK(has(fault(with_model("\"a b\"", "\"a  b\"")), "one space"));
  CHECK(has(fault(with_model("[\"ab\",\"c\"]", "[\"ab\",\"c\",\"d\"]")), "two tokens"));
  CHECK(has(fault(with_model("[\"ab\",\"c\"]", "7")), "expected a string"));
  CHECK(has(fault(with_model("\"type\":\"BPE\"", "\"type\":\"BPE\",\"dropout\":0.1")), "dropout"));
  CHECK(
      has(fault(with_model("\"type\":\"BPE\"", "\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"")),
          "end_of_word_suffix: \"</w>\" is not supported"));
  // an unknown token that is none is an error when it is needed
  auto no_unk = with_model("\"type\":\"BPE\"", "\"type\":\"BPE\",\"unk_token\":\"<unk>\"");
  std::string& vocab = no_unk["model"];
  vocab.replace(vocab.find("\"\\u0058\":88,"), 12, "");
  const Tokenizer tokenizer = small::make(no_unk);
  CHECK(tokenizer.encode("abc") == std::vector{257});
  CHECK_THROWS_WITH_AS(tokenizer.encode("aXc"),
                       "Tokenizer: the text has a character without a token, and the unknown token "
                       "\"<unk>\" is not in the vocabulary",
                       casa::error);
}

TEST_CASE("added tokens are counted as the reference counts them, and the difference is told") {
  const auto base = small::byte_level();
  const auto warnings = [](const small::Parts& parts) { return small::make(parts).warnings(); };
  CHECK(warnings(base).empty());
  CHECK(warnings(with(base, "added_tokens", added(260, "<eos>"))).empty());
  const auto far = warnings(with(base, "added_tokens", added(300, "<eos>")));
  REQUIRE(far.size() == 1);
  CHECK(has(far[0], "added_tokens[0]: token \"<eos>\" has the id 260, not 300"));
  CHECK(warnings(with(base, "added_tokens", added(260, "abc"))).size() == 1);
  CHECK(warnings(with(base, "added_tokens", added(257, "<eos>"))).size() == 1);
  CHECK(has(fault(with(base, "added_tokens", added(260, "x", ",\"color\":1"))), "color"));
  CHECK(has(fault(with(base, "added_tokens", "[{\"id\":260}]")), "content"));
}

TEST_CASE("Unigram files are checked") {
  const auto model = [](const std::string& vocab, const std::string& rest = "") {
    return with(small::unigram(), "model", R"({"type":"Unigram","vocab":)" + vocab + rest + "}");
  };
  CHECK(small::make(model(R"([["a",-1],["b",-1],["a",-2]])")).encode("ab") == std::vector{2, 1});
  CHECK(has(fault(model(R"([["a"]])")), "[token, score]"));
  CHECK(has(fault(model(R"([["a","b"]])")), "expected a number"));
  CHECK(has(fault(model(R"([["a",-1]])", R"(,"unk_id":1)")), "expected an integer in [0, 0]"));
  CHECK(has(fault(with(small::unigram(), "pre_tokenizer",
                       R"({"type":"ByteLevel","add_prefix_space":false})")),
            "Unigram after ByteLevel"));
  const Tokenizer no_unk = small::make(model(R"([["a",-1]])"));
  CHECK(no_unk.encode("aa") == std::vector{0, 0});
  CHECK_THROWS_AS(no_unk.encode("ax"), casa::error);
}

TEST_CASE("the limits hold") {
  TokenizerOptions options;
  options.limits.tokens = 260;
  CHECK(has(fault(small::byte_level(), options), "id 260 is not below the limit of 260 tokens"));
  options = {};
  options.limits.merges = 3;
  CHECK(has(fault(small::byte_level(), options), "4 merges are more than the limit of 3"));
  options = {};
  options.limits.token_bytes = 4;
  CHECK(has(fault(small::byte_level(), options), "longer than 4 bytes"));
  options = {};
  options.limits.pattern_bytes = 3;
  options.any_pattern = true;
  CHECK(has(fault(with(small::byte_level(), "pre_tokenizer",
                       R"({"type":"Split","pattern":{"Regex":"abcd"},"behavior":"Removed"})"),
                  options),
            "at most 3 bytes"));
}

TEST_CASE("a regular expression that PCRE2 or we do not understand is refused") {
  TokenizerOptions options;
  options.any_pattern = true;
  const auto split = [](const std::string& pattern) {
    return with(small::byte_level(), "pre_tokenizer",
                R"({"type":"Split","behavior":"Removed","pattern":{"Regex":)" +
                    small::quoted_json(pattern) + "}}");
  };
  CHECK(fault(split("[a-z]+|\\s"), options) == "");
  CHECK(has(fault(split("(a"), options), "is not understood"));
  // what the two engines read differently
  for (const char* pattern :
       {"a\\Cb", "\\K", "\\v", "[a-z&&[^b]]", "[a[bc]]", "[[:alpha:]]", "[\\W]",
        "(*LIMIT_MATCH=1)a", "a{,3}", "(?|a)", "(?s)a", "(?C1)a", "(?U)a", "\\X"}) {
    CAPTURE(pattern);
    CHECK(has(fault(split(pattern), options), "is not supported"));
  }
}

TEST_CASE("files that are no tokenizer are refused by name, at once") {
  const Scratch scratch;
  CHECK_THROWS_AS(Tokenizer(scratch.file("absent.json")), casa::error);
  CHECK_THROWS_AS(Tokenizer(scratch.path()), casa::error);  // a folder without tokenizer.json
  CHECK_THROWS_AS(Tokenizer(scratch.write("empty.json", "")), casa::error);
  CHECK_THROWS_AS(Tokenizer(scratch.write("list.json", "[]")), casa::error);
  CHECK_THROWS_AS(
      Tokenizer(scratch.write("lfs.json", "version https://git-lfs.github.com/spec/v1\n")),
      casa::error);
  std::string deep = "{\"model\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  CHECK_THROWS_AS(Tokenizer(scratch.write("deep.json", deep)), casa::error);
  const std::string good = small::text(small::byte_level());
  scratch.write("tokenizer.json", good);
  CHECK(Tokenizer(scratch.path()).encode("abc") == std::vector{257});
  for (std::size_t size = 0; size < good.size(); size += 97)
    CHECK_THROWS_AS(Tokenizer(scratch.write("cut.json", good.substr(0, size))), casa::error);
  TokenizerOptions options;
  options.limits.tokenizer_bytes = 100;
  CHECK_THROWS_AS(Tokenizer(scratch.path(), options), casa::error);
}

TEST_CASE("a file that makes every text grow without bound is stopped") {
  std::string steps;
  for (int i = 0; i < 40; ++i)
    steps += std::string(i == 0 ? "" : ",") +
             R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"})";
  const Tokenizer grows = small::make(with(small::byte_level(), "normalizer",
                                           R"({"type":"Sequence","normalizers":[)" + steps + "]}"));
  CHECK(grows.encode("b") == std::vector<int>{'b'});
  CHECK_THROWS_AS(grows.encode("a"), casa::error);
  const Tokenizer decodes = small::make(
      with(small::byte_level(), "decoder", R"({"type":"Sequence","decoders":[)" + steps + "]}"));
  CHECK(decodes.decode(std::vector<int>{'b'}) == "b");
  CHECK_THROWS_AS(decodes.decode(std::vector<int>{'a'}), casa::error);
  CHECK(has(fault(with(small::byte_level(), "normalizer",
                       R"({"type":"Sequence","normalizers":[)" + steps + "," + steps + "]}")),
            "more than 64 steps"));
}

TEST_CASE("a damaged file is an error, or a tokenizer whose ids and text hold") {
  std::mt19937 random(74);
  const std::string some = "0123456789-.eE\"\\[]{}:,atrue\xc3\x80 ";
  int loaded = 0, refused = 0;
  for (const small::Parts& parts : {small::byte_level(), small::unigram()}) {
    const std::string good = small::text(parts);
    for (int round = 0; round < 1500; ++round) {
      CAPTURE(round);
      std::string bad = good;
      for (std::size_t n = 1 + random() % 3; n > 0; --n) {
        const std::size_t at = random() % bad.size();
        if (random() % 2 == 0)
          bad[at] = some[random() % some.size()];
        else
          bad.erase(at, 1 + random() % 8);
      }
      CAPTURE(bad);
      try {
        const Tokenizer tokenizer(parse_json(bad, "tokenizer.json"));
        for (const int id : tokenizer.encode("abc <eos>\xc3\xa9 b"))
          CHECK((id >= 0 && id < tokenizer.vocab_size()));
        REQUIRE(tokenizer.vocab_size() <= 1 << 21);
        for (int id = 0; id < (std::min)(tokenizer.vocab_size(), 1000); ++id)
          CHECK(detail::find_invalid_utf8(tokenizer.decode(std::vector{id})) == std::string::npos);
        ++loaded;
      } catch (const casa::error&) {
        ++refused;
      }
    }
  }
  CHECK(loaded > 100);
  CHECK(refused > 100);
}
