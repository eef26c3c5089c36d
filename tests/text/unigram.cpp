#include "casa/text/tokenizer/unigram.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace casa::io::detail;

namespace {

std::vector<int> encoded(const Unigram& model, const std::string& text) {
  Unigram::Scratch scratch;
  std::vector<int> ids;
  model.encode(text, ids, scratch);
  return ids;
}

/// The greatest sum of scores of all ways to cut text[at..] into pieces.
double best_sum(const std::vector<std::string>& pieces, const std::vector<double>& scores,
                const std::string& text, std::size_t at) {
  if (at == text.size()) return 0;
  double best = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < pieces.size(); ++i)
    if (text.compare(at, pieces[i].size(), pieces[i]) == 0)
      best = std::max(best, scores[i] + best_sum(pieces, scores, text, at + pieces[i].size()));
  return best;
}

}  // namespace

TEST_CASE("the pieces found make up the text and have the greatest sum") {
  std::mt19937 random(21);
  for (int round = 0; round < 200; ++round) {
    CAPTURE(round);
    std::vector<std::string> pieces = {"a", "b", "c"};
    for (int i = 0; i < 8; ++i) {
      std::string piece;
      for (std::size_t n = 2 + random() % 3; n > 0; --n)
        piece += static_cast<char>('a' + random() % 3);
      if (std::find(pieces.begin(), pieces.end(), piece) == pieces.end()) pieces.push_back(piece);
    }
    Vocabulary v;
    std::vector<double> scores;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      v.add(pieces[i], static_cast<int>(i));
      scores.push_back(-static_cast<double>(random() % 64) / 4);  // sums are exact
    }
    std::string text;
    for (std::size_t n = 1 + random() % 12; n > 0; --n)
      text += static_cast<char>('a' + random() % 3);
    CAPTURE(text);
    std::string written;
    double sum = 0;
    for (const int id : encoded(Unigram(v, scores, -1, false), text)) {
      written += pieces[static_cast<std::size_t>(id)];
      sum += scores[static_cast<std::size_t>(id)];
    }
    CHECK(written == text);
    CHECK(sum == best_sum(pieces, scores, text, 0));
  }
}

TEST_CASE("unknown characters become their bytes, or one unknown token for a run") {
  Vocabulary v;
  int next = 0;
  for (const char* token : {"<unk>", "a", "<0xC3>", "<0xA9>"}) v.add(token, next++);
  const std::vector<double> scores = {0, -1, -9, -9};
  const std::string text =
      "a\xc3\xa9\xc3\xa9"
      "a";
  CHECK(encoded(Unigram(v, scores, 0, true), text) == std::vector{1, 2, 3, 2, 3, 1});
  CHECK(encoded(Unigram(v, scores, 0, false), text) == std::vector{1, 0, 1});
  CHECK(encoded(Unigram(v, scores, 0, true), "xx") == std::vector{0});      // no <0x78>
  CHECK(encoded(Unigram(v, scores, 0, true), "<0xC3>") == std::vector{2});  // takes part as a piece
  CHECK_THROWS_AS(encoded(Unigram(v, scores, -1, true), text), casa::error);
}
