// The unigram language model: of all ways to cut a text into pieces the one whose scores have the
// greatest sum, by Viterbi (Kudo, arXiv 1804.10959, section 3.2).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/text/tokenizer/bpe.hpp"
#include "casa/text/tokenizer/utf8.hpp"
#include "casa/text/tokenizer/vocabulary.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// A trained unigram model. Immutable: any number of threads may encode, each with its own Scratch.
class Unigram {
 public:
  struct Scratch {
    // For each place in the text, the best segmentation that ends there:
    std::vector<int> last;      // its last piece
    std::vector<double> score;  // its sum of scores, in a ring as long as the longest piece
  };

  /// scores[id] for the ids of `vocabulary`, which must outlive the model. unk_id: -1 for none.
  Unigram(const Vocabulary& vocabulary, std::vector<double> scores, int unk_id, bool byte_fallback)
      : vocabulary_(&vocabulary),
        scores_(std::move(scores)),
        unk_id_(unk_id),
        byte_fallback_(byte_fallback) {
    std::vector<std::pair<std::string_view, int>> pieces;
    std::size_t longest = 4;  // bytes of an unknown character at most
    vocabulary.for_each([&](std::string_view token, int id) {
      if (!token.empty()) pieces.emplace_back(token, id);
      const auto i = static_cast<std::size_t>(id);
      if (i >= sizes_.size()) sizes_.resize(i + 1);
      sizes_[i] = static_cast<std::uint32_t>(token.size());
      longest = (std::max)(longest, token.size());
    });
    ring_ = std::bit_ceil(longest + 1);
    pieces_ = ByteTrie(std::move(pieces));
    double lowest = std::numeric_limits<double>::infinity();
    for (const double score : scores_) lowest = (std::min)(lowest, score);
    unknown_score_ = lowest - 10;  // SentencePiece's kUnkPenalty
    for (std::size_t b = 0; b < 256; ++b) byte_ids_[b] = vocabulary.find(Bpe::byte_token(b));
  }

  /// Appends the ids of a text (valid UTF-8, not empty), in time proportional to its length times
  /// that of the longest piece.
  void encode(std::string_view text, std::vector<int>& out, Scratch& scratch) const {
    std::vector<int>& last = scratch.last;
    last.assign(text.size() + 1, nothing);
    scratch.score.resize(ring_);
    scratch.score[0] = 0;
    const auto score_at = [&](std::size_t place) -> double& {
      return scratch.score[place & (ring_ - 1)];
    };
    const auto reach = [&](std::size_t place, double score, int piece) {
      if (last[place] != nothing && !(score > score_at(place)))
        return;  // of segmentations with equal scores the first is kept
      last[place] = piece;
      score_at(place) = score;
    };
    for (std::size_t begin = 0, size = 0; begin < text.size(); begin += size) {
      size = utf8_size(text[begin]);
      const double score = score_at(begin);
      bool known = false;
      ByteTrie::Node node = pieces_.begin(text[begin]);
      for (std::size_t end = begin + 1; node != 0; ++end) {
        if (const int id = pieces_.value(node); id >= 0) {
          reach(end, scores_[static_cast<std::size_t>(id)] + score, id);
          known |= end == begin + size;
        }
        if (end == text.size()) break;
        node = pieces_.next(node, text[end]);
      }
      if (!known) {
        require(unk_id_ >= 0, "Unigram: no piece and no unk_id for ",
                casa::quoted(text.substr(begin, size)));
        reach(begin + size, unknown_score_ + score, unknown_character);
      }
    }
    // Follows the best pieces from the end to the beginning, then reverses the ids.
    const std::size_t first = out.size();
    std::size_t unknown_end = 0;  // end of the current stretch of unknown pieces; 0: none
    for (std::size_t end = text.size(); end > 0;) {
      const int piece = last[end];
      const bool unknown = piece == unknown_character || piece == unk_id_;
      if (unknown && unknown_end == 0) unknown_end = end;
      if (!unknown) {
        if (unknown_end > 0) put_unknown(text.substr(end, unknown_end - end), out);
        unknown_end = 0;
        out.push_back(piece);
      }
      end = piece == unknown_character ? previous_character(text, end)
                                       : end - sizes_[static_cast<std::size_t>(piece)];
    }
    if (unknown_end > 0) put_unknown(text.substr(0, unknown_end), out);
    std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
  }

 private:
  static constexpr int nothing = -1, unknown_character = -2;

  /// A stretch of unknown pieces: a token if it happens to be one, else its bytes, else one unknown
  /// token.
  void put_unknown(std::string_view stretch, std::vector<int>& reversed) const {
    if (const int id = vocabulary_->find(stretch); id >= 0) return reversed.push_back(id);
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (byte_fallback_ &&
        std::all_of(stretch.begin(), stretch.end(), [&](char c) { return byte_id(c) >= 0; })) {
      for (auto c = stretch.rbegin(); c != stretch.rend(); ++c) reversed.push_back(byte_id(*c));
    } else {
      reversed.push_back(unk_id_);
    }
  }

  const Vocabulary* vocabulary_;
  std::vector<double> scores_;
  int unk_id_;
  bool byte_fallback_;
  double unknown_score_ = 0;
  ByteTrie pieces_;
  std::vector<std::uint32_t> sizes_;  // of the pieces, by id
  std::size_t ring_ = 0;
  std::array<int, 256> byte_ids_ = {};
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
