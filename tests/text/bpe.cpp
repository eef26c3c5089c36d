#include "casa/text/tokenizer/bpe.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

using namespace casa::io::detail;

namespace {

/// A random vocabulary over a few letters: the letters, then joined tokens in the order of their
/// merges.
struct Random {
  Vocabulary vocabulary;
  std::vector<std::string> tokens;
  std::vector<BpeMerge> merges;

  Random(std::mt19937& random, const std::vector<std::string>& letters, std::size_t count) {
    for (const auto& letter : letters) add(letter);
    for (std::size_t i = 0; i < count; ++i) {
      const auto left = static_cast<int>(random() % tokens.size());
      const auto right = static_cast<int>(random() % tokens.size());
      const std::string joined =
          tokens[static_cast<std::size_t>(left)] + tokens[static_cast<std::size_t>(right)];
      if (joined.size() > 24) continue;
      if (vocabulary.find(joined) < 0) add(joined);
      merges.push_back({left, right, vocabulary.find(joined)});
    }
    for (std::size_t i = merges.size(); i > 1; --i) std::swap(merges[i - 1], merges[random() % i]);
  }
  void add(const std::string& token) {
    vocabulary.add(token, static_cast<int>(tokens.size()));
    tokens.push_back(token);
  }
};

/// The definition: while some neighbours have a merge, join the leftmost pair of the earliest one.
std::vector<int> by_definition(const Random& model, std::vector<int> ids) {
  for (;;) {
    std::size_t best = ids.size(), rank = model.merges.size();
    for (std::size_t i = 0; i + 1 < ids.size(); ++i)
      for (std::size_t m = model.merges.size(); m-- > 0;)
        if (model.merges[m].left == ids[i] && model.merges[m].right == ids[i + 1]) {
          if (m < rank) {
            rank = m;
            best = i;
          }
          break;  // of a pair that stands twice the last counts
        }
    if (best == ids.size()) return ids;
    ids[best] = model.merges[rank].joined;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

std::vector<int> encoded(const Bpe& bpe, const std::string& word) {
  Bpe::Scratch scratch;
  std::vector<int> ids;
  bpe.encode(word, ids, scratch);
  return ids;
}

}  // namespace

TEST_CASE("words of any length are joined as by the definition") {
  std::mt19937 random(11);
  const std::vector<std::string> letters = {"a", "b", "c", "\xc3\xa9"};
  for (int round = 0; round < 60; ++round) {
    CAPTURE(round);
    const Random model(random, letters, 2 + random() % 30);
    const Bpe bpe(model.vocabulary, model.merges, {});
    for (const std::size_t size : {1u, 2u, 7u, 39u, 40u, 41u, 90u, 200u}) {
      CAPTURE(size);
      std::string word;
      std::vector<int> ids;
      for (std::size_t i = 0; i < size; ++i) {
        const std::size_t letter = random() % letters.size();
        word += letters[letter];
        ids.push_back(static_cast<int>(letter));
      }
      CHECK(encoded(bpe, word) == by_definition(model, ids));
    }
  }
}

TEST_CASE("what has no token falls back to bytes, else is unknown, else vanishes") {
  Vocabulary v;
  int next = 0;
  for (const char* token : {"<unk>", "a", "<0xC3>", "<0xA9>", "aa"}) v.add(token, next++);
  const std::vector<BpeMerge> merges = {{1, 1, 4}};
  const std::string word =
      "a\xc3\xa9"
      "axxa";
  CHECK(encoded(Bpe(v, merges, {}), word) == std::vector{4, 1});  // a, a, a
  CHECK(encoded(Bpe(v, merges, {.unk_id = 0}), word) == std::vector{1, 0, 1, 0, 0, 1});
  CHECK(encoded(Bpe(v, merges, {.fuse_unk = true, .unk_id = 0}), word) ==
        std::vector{1, 0, 1, 0, 1});
  CHECK(encoded(Bpe(v, merges, {.byte_fallback = true, .unk_id = 0}), word) ==
        std::vector{1, 2, 3, 1, 0, 0, 1});
}

TEST_CASE("ignore_merges takes a word that is a token as it is") {
  Vocabulary v;
  int next = 0;
  for (const char* token : {"a", "b", "ab", "abb", "\xc4\xa0"}) v.add(token, next++);
  const std::vector<BpeMerge> merges = {{0, 1, 2}};
  CHECK(encoded(Bpe(v, merges, {}), "abb") == std::vector{2, 1});
  CHECK(encoded(Bpe(v, merges, {.ignore_merges = true}), "abb") == std::vector{3});
  // Byte-level: words are bytes, tokens are letters of the alphabet; U+0120 stands for the space.
  CHECK(encoded(Bpe(v, merges, {.byte_level = true, .ignore_merges = true}), " ") ==
        std::vector{4});
  CHECK(encoded(Bpe(v, merges, {.byte_level = true}), " ab") == std::vector{4, 2});
}

TEST_CASE("merges that name byte tokens cross what would else be a seam") {
  Vocabulary v;
  int next = 0;
  for (const char* token : {"a", "<0xC3>", "<0xA9>", "a<0xC3>"}) v.add(token, next++);
  const Bpe bpe(v, {{0, 1, 3}}, {.byte_fallback = true});
  std::string word;
  std::vector<int> ids;
  for (int i = 0; i < 100; ++i) {
    word += "a\xc3\xa9";
    ids.insert(ids.end(), {3, 2});
  }
  CHECK(encoded(bpe, word) == ids);
}
