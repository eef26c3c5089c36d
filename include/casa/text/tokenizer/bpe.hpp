// Byte-pair encoding: a word's characters (or bytes) are joined pair by pair, the earliest merge of
// the list first (Sennrich, Haddow, Birch, arXiv 1508.07909, section 3.2).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/text/tokenizer/utf8.hpp"
#include "casa/text/tokenizer/vocabulary.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// (left, right) -> (rank, id of the joined token), by open addressing: a lookup touches one cache
/// line in most cases.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank;
    int joined;
  };
  static constexpr std::uint32_t none = 0xffffffffu;

  explicit MergeTable(std::size_t count = 0) : slots_(std::bit_ceil(2 * count + 2)) {}

  /// A pair that is listed twice keeps its last rank, as in the Python package `tokenizers`.
  void set(int left, int right, Merge merge) {
    Slot& slot = slots_[find_slot(key(left, right))];
    slot = {key(left, right), merge};
  }
  Merge find(int left, int right) const {
    const Slot& slot = slots_[find_slot(key(left, right))];
    return slot.key == 0 ? Merge{none, -1} : slot.merge;
  }

 private:
  struct Slot {
    std::uint64_t key = 0;  // 0: free
    Merge merge = {none, -1};
  };
  static std::uint64_t key(int left, int right) {
    return (std::uint64_t{static_cast<std::uint32_t>(left)} + 1) << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t find_slot(std::uint64_t k) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = (((k * hash_seed()) >> 32 ^ k) * hash_seed()) >> 20 & mask;
    while (slots_[slot].key != 0 && slots_[slot].key != k) slot = (slot + 1) & mask;
    return slot;
  }

  std::vector<Slot> slots_;
};

/// How a BPE model treats what it does not know.
struct BpeOptions {
  bool byte_level = false;       ///< words are bytes, tokens are written in GPT-2's alphabet
  bool byte_fallback = false;    ///< an unknown character becomes its bytes' tokens <0x..>
  bool fuse_unk = false;         ///< unknown characters in a row are one unknown token
  bool ignore_merges = false;    ///< a word that is a token is that token, whatever the merges say
  int unk_id = -1;               ///< -1: unknown characters give no token
  std::string missing_unk = {};  ///< unk_token that is not in the vocabulary: an error when needed
};

struct BpeMerge {
  int left, right, joined;
};

/// A trained BPE model. Immutable: any number of threads may encode, each with its own Scratch.
class Bpe {
 public:
  struct Scratch {
    std::vector<int> ids;
    std::vector<std::uint32_t> ranks, next, previous;
    std::vector<std::uint64_t> heap;
  };

  /// merges in the order of their rank; ids of `vocabulary`, which must outlive the model.
  Bpe(const Vocabulary& vocabulary, const std::vector<BpeMerge>& merges, const BpeOptions& options)
      : vocabulary_(&vocabulary), options_(options), merges_(merges.size()) {
    const auto& alphabet = byte_alphabet();
    for (std::size_t b = 0; b < 256; ++b) {
      std::string letter;
      append_utf8(letter, alphabet.letter[b]);
      letter_ids_[b] = vocabulary.find(letter);
      byte_ids_[b] = vocabulary.find(byte_token(b));
      ascii_ids_[b % 128] = vocabulary.find(std::string(1, static_cast<char>(b % 128)));
    }
    for (std::size_t i = 0; i < merges.size(); ++i)
      merges_.set(merges[i].left, merges[i].right,
                  {static_cast<std::uint32_t>(i), merges[i].joined});
    if (options.ignore_merges && options.byte_level) {
      std::string bytes;
      vocabulary.for_each([&](std::string_view token, int id) {
        if (alphabet.read(token, bytes) && !bytes.empty()) words_.add(bytes, id);
      });
    }
    find_seams(merges);
  }

  /// The token in which published vocabularies write byte b: <0x00>, ..., <0xFF>.
  static std::string byte_token(std::size_t b) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    return {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'};
  }

  /// Appends the ids of a word (valid UTF-8, not empty). n log n in its length at worst.
  void encode(std::string_view word, std::vector<int>& out, Scratch& scratch) const {
    if (options_.ignore_merges) {
      const int id = options_.byte_level ? words_.find(word) : vocabulary_->find(word);
      if (id >= 0) return out.push_back(id);
    }
    std::vector<int>& ids = scratch.ids;
    ids.clear();
    options_.byte_level ? split_bytes(word, ids) : split_characters(word, ids);
    // A seam is a place that no merge can cross. Each stretch between two seams is merged alone, so
    // the cost of a long word is that of its longest stretch.
    for (std::size_t begin = 0; begin < ids.size();) {
      std::size_t end = begin + 1;
      if (ids.size() <= small || !has_seams_) {
        end = ids.size();
      } else {
        while (end < ids.size() && seams_.find(ids[end - 1], ids[end]).rank != MergeTable::none)
          ++end;
      }
      if (end - begin <= small)
        merge_small(ids.data() + begin, end - begin, out);
      else
        merge_large(ids.data() + begin, end - begin, out, scratch);
      begin = end;
    }
  }

 private:
  static constexpr std::size_t small = 40;

  /// Collects consecutive characters that have no token, to turn them into one unknown token or
  /// into bytes.
  class Unknown {
   public:
    Unknown(const BpeOptions& options, std::vector<int>& ids) : options_(options), ids_(ids) {}
    void add() {
      require(options_.missing_unk.empty(), "Tokenizer: the text has a character without a token, ",
              "and the unknown token ", casa::quoted(options_.missing_unk),
              " is not in the vocabulary");
      if (options_.unk_id < 0) return;
      if (waits_ && !options_.fuse_unk) ids_.push_back(options_.unk_id);
      waits_ = true;
    }
    void flush() {
      if (waits_) ids_.push_back(options_.unk_id);
      waits_ = false;
    }

   private:
    const BpeOptions& options_;
    std::vector<int>& ids_;
    bool waits_ = false;
  };

  void split_bytes(std::string_view word, std::vector<int>& ids) const {
    Unknown unknown(options_, ids);
    for (const char c : word) {
      const int id = letter_ids_[static_cast<unsigned char>(c)];
      if (id < 0) {
        unknown.add();
      } else {
        unknown.flush();
        ids.push_back(id);
      }
    }
    unknown.flush();
  }

  void split_characters(std::string_view word, std::vector<int>& ids) const {
    Unknown unknown(options_, ids);
    for (std::size_t i = 0, size = 0; i < word.size(); i += size) {
      size = utf8_size(word[i]);
      const std::string_view character = word.substr(i, size);
      const int id = size == 1 ? ascii_ids_[static_cast<unsigned char>(word[i])]
                               : vocabulary_->find(character);
      if (id >= 0) {
        unknown.flush();
        ids.push_back(id);
      } else if (!options_.byte_fallback || !fall_back(character, ids)) {
        unknown.add();  // kept until later bytes are written, as in the Python package
      }
    }
    unknown.flush();
  }

  bool fall_back(std::string_view character, std::vector<int>& ids) const {
    for (const char c : character)
      if (byte_ids_[static_cast<unsigned char>(c)] < 0) return false;
    for (const char c : character) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    return true;
  }

  /// The pairs of first symbols that some merge may join. A token's outermost symbols are the
  /// tokens of its first and last character; unless merges join <0x..> or unknown tokens by name.
  void find_seams(const std::vector<BpeMerge>& merges) {
    std::vector<bool> special;
    const auto mark = [&](int id) {
      if (id < 0) return;
      const auto i = static_cast<std::size_t>(id);
      if (i >= special.size()) special.resize(i + 1);
      special[i] = true;
    };
    if (!options_.byte_level && options_.byte_fallback)
      for (const int id : byte_ids_) mark(id);
    mark(options_.unk_id);
    const auto is_special = [&](int id) {
      return static_cast<std::size_t>(id) < special.size() && special[static_cast<std::size_t>(id)];
    };
    // id -> (first, last) symbol, from the spelling
    std::vector<std::pair<int, int>> ends;
    vocabulary_->for_each([&](std::string_view token, int id) {
      const auto i = static_cast<std::size_t>(id);
      if (i >= ends.size()) ends.resize(i + 1, {-1, -1});
      if (token.empty()) return;
      ends[i] = {vocabulary_->find(token.substr(0, utf8_size(token[0]))),
                 vocabulary_->find(token.substr(previous_character(token, token.size())))};
    });
    seams_ = MergeTable(merges.size());
    for (const BpeMerge& merge : merges) {
      if (is_special(merge.left) || is_special(merge.right)) return;
      const int left = ends[static_cast<std::size_t>(merge.left)].second;
      const int right = ends[static_cast<std::size_t>(merge.right)].first;
      if (left >= 0 && right >= 0) seams_.set(left, right, {0, 0});
    }
    has_seams_ = true;
  }

  /// Merges by scanning all pairs for the lowest rank each time: quadratic, but the fastest way for
  /// the length of ordinary words.
  void merge_small(const int* symbols, std::size_t n, std::vector<int>& out) const {
    if (n == 0) return;
    std::array<int, small> ids = {};
    std::array<MergeTable::Merge, small> pairs = {};  // of symbol i and i + 1
    std::copy_n(symbols, n, ids.begin());
    for (std::size_t i = 0; i + 1 < n; ++i) pairs[i] = merges_.find(ids[i], ids[i + 1]);
    while (n > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < n; ++i)
        if (pairs[i].rank < pairs[best].rank) best = i;
      if (pairs[best].rank == MergeTable::none) break;
      ids[best] = pairs[best].joined;
      for (std::size_t i = best + 1; i + 1 < n; ++i) {
        ids[i] = ids[i + 1];
        pairs[i] = pairs[i + 1];
      }
      --n;
      if (best > 0) pairs[best - 1] = merges_.find(ids[best - 1], ids[best]);
      if (best + 1 < n) pairs[best] = merges_.find(ids[best], ids[best + 1]);
    }
    out.insert(out.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n));
  }

  /// The same with a heap of pairs and a linked list of symbols: n log n, for long words.
  void merge_large(int* ids, std::size_t n, std::vector<int>& out, Scratch& s) const {
    constexpr std::uint32_t end = 0xffffffffu;
    s.ranks.resize(n);
    s.next.resize(n);
    s.previous.resize(n);
    s.heap.clear();
    for (std::size_t i = 0; i < n; ++i) {
      s.previous[i] = i == 0 ? end : static_cast<std::uint32_t>(i - 1);
      s.next[i] = i + 1 == n ? end : static_cast<std::uint32_t>(i + 1);
      s.ranks[i] = i + 1 == n ? MergeTable::none : merges_.find(ids[i], ids[i + 1]).rank;
      if (s.ranks[i] != MergeTable::none) s.heap.push_back(std::uint64_t{s.ranks[i]} << 32 | i);
    }
    const auto later = [](std::uint64_t a, std::uint64_t b) { return a > b; };
    std::make_heap(s.heap.begin(), s.heap.end(), later);
    const auto rank_pair = [&](std::uint32_t i) {
      s.ranks[i] = s.next[i] == end ? MergeTable::none : merges_.find(ids[i], ids[s.next[i]]).rank;
      if (s.ranks[i] == MergeTable::none) return;
      s.heap.push_back(std::uint64_t{s.ranks[i]} << 32 | i);
      std::push_heap(s.heap.begin(), s.heap.end(), later);
    };
    while (!s.heap.empty()) {
      std::pop_heap(s.heap.begin(), s.heap.end(), later);
      const std::uint64_t top = s.heap.back();
      s.heap.pop_back();
      const auto i = static_cast<std::uint32_t>(top);
      if (s.ranks[i] != top >> 32) continue;  // an outdated heap entry: the pair has changed since
      const std::uint32_t right = s.next[i];
      ids[i] = merges_.find(ids[i], ids[right]).joined;
      s.ranks[right] = MergeTable::none;
      s.next[i] = s.next[right];
      if (s.next[i] != end) s.previous[s.next[i]] = i;
      rank_pair(i);
      if (s.previous[i] != end) rank_pair(s.previous[i]);
    }
    for (std::uint32_t i = 0; i != end; i = s.next[i]) out.push_back(ids[i]);
  }

  const Vocabulary* vocabulary_;
  BpeOptions options_;
  MergeTable merges_, seams_;
  bool has_seams_ = false;
  Vocabulary words_;  // byte-level and ignore_merges: tokens by the bytes they write
  std::array<int, 256> letter_ids_ = {}, byte_ids_ = {};
  std::array<int, 128> ascii_ids_ = {};
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
