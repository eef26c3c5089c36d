// Text to token ids and back, as the Python package `tokenizers` does it from the same
// tokenizer.json. Links PCRE2 and utf8proc (CMake target casa::text).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/json/json.hpp"
#include "casa/text/tokenizer/load.hpp"
#include "casa/text/tokenizer/parts.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// The ids of words that came before in the same text, so that a repeated word is not encoded
/// again. A direct-mapped cache: each word hashes to one place, and a new word replaces the old. It
/// lives for one call of encode, so that threads share nothing.
class WordCache {
 public:
  explicit WordCache(std::size_t text_size)
      : places_(std::bit_ceil((std::min)(text_size / 16 + 1, std::size_t{8192}))) {}

  /// Appends the ids of `word`, from the cache or by encode(word, out).
  template <class Encode>
  void get(std::string_view word, std::vector<int>& out, Encode encode) {
    if (word.size() > kBytes || places_.size() < 4) return encode(word, out);
    Place& place = places_[hash_text(word) & (places_.size() - 1)];
    if (place.size == word.size() &&
        std::memcmp(place.word.data(), word.data(), word.size()) == 0) {
      out.insert(out.end(), place.ids.begin(), place.ids.begin() + place.count);
      return;
    }
    const std::size_t before = out.size();
    encode(word, out);
    const std::size_t count = out.size() - before;
    if (count > kIds) return;
    place.size = static_cast<unsigned char>(word.size());
    place.count = static_cast<unsigned char>(count);
    std::memcpy(place.word.data(), word.data(), word.size());
    std::copy_n(out.end() - static_cast<std::ptrdiff_t>(count), count, place.ids.begin());
  }

 private:
  static constexpr std::size_t kBytes = 30, kIds = 8;
  struct Place {
    std::array<char, kBytes> word;
    unsigned char size = 0, count = 0;  // size 0: free
    std::array<int, kIds> ids;
  };
  std::vector<Place> places_;
};

}  // namespace detail

class StreamDecoder;

/// A tokenizer, made from tokenizer.json. Immutable and cheap to copy; any number of threads may
/// use one. Throws casa::error for a file that is broken or asks for what we do not do, a text that
/// is not UTF-8 or too long, and an id outside the vocabulary.
class Tokenizer {
 public:
  /// path: a tokenizer.json, or the folder it lies in.
  explicit Tokenizer(const std::string& path, const TokenizerOptions& options = {})
      : Tokenizer(read_json(file_in(path), {.max_bytes = options.limits.tokenizer_bytes,
                                            .max_depth = options.limits.json_depth}),
                  options) {}
  /// From a parsed tokenizer.json.
  explicit Tokenizer(const Json& file, const TokenizerOptions& options = {}) {
    auto parts = std::make_shared<detail::TokenizerParts>();
    detail::TokenizerLoader(file, options, *parts).load();
    parts_ = std::move(parts);
  }

  /// The ids of a text. add_special: with what the file's template puts around it (bos, eos).
  /// Special tokens that are written out in the text become their ids either way, except in the
  /// stretches `plain` (in order, not overlapping), where they are text like any other: what a
  /// stranger wrote can not end a turn there. Throws casa::error for stretches outside the text.
  std::vector<int> encode(std::string_view text, bool add_special = true,
                          std::span<const TextRange> plain = {}) const {
    const detail::TokenizerParts& p = *parts_;
    require(static_cast<std::int64_t>(text.size()) <= p.limits.text_bytes,
            "Tokenizer::encode: text of ", text.size(), " bytes is longer than the limit of ",
            p.limits.text_bytes);
    const std::size_t bad = detail::find_invalid_utf8(text);
    require(bad == std::string_view::npos, "Tokenizer::encode: text is not UTF-8 at byte ", bad);
    std::size_t end = 0;
    for (const TextRange& r : plain) {
      require(end <= r.begin && r.begin <= r.end && r.end <= text.size(),
              "Tokenizer::encode: the plain stretch [", r.begin, ", ", r.end,
              ") does not follow byte ", end, " in a text of ", text.size(), " bytes");
      end = r.end;
    }
    std::vector<int> ids;
    if (add_special) ids = p.prefix;
    if (p.bpe)
      encode_with(*p.bpe, text, plain, ids);
    else
      encode_with(*p.unigram, text, plain, ids);
    if (add_special) ids.insert(ids.end(), p.suffix.begin(), p.suffix.end());
    return ids;
  }
  /// The same where the whole text is plain: no special token is found in it. (What transformers
  /// gives with split_special_tokens=True.)
  std::vector<int> encode_plain(std::string_view text, bool add_special = true) const {
    const TextRange all{0, text.size()};
    return encode(text, add_special, {&all, 1});
  }

  /// The text of ids, always UTF-8: what can not be part of a character becomes U+FFFD. An id below
  /// vocab_size() without a token gives no text.
  std::string decode(std::span<const int> ids, bool skip_special = false) const {
    std::string out;
    detail::DecoderRun run(parts_->decoder);
    for (const int id : ids) {
      require_id(id);
      if (has_token(id) && !(skip_special && is_special(id))) run.push(token(id), out);
    }
    run.finish(out);
    return out;
  }

  /// The id of a token as the file writes it ("<|im_end|>", "Ġthe"), or nothing.
  std::optional<int> find(std::string_view token) const {
    for (const detail::Vocabulary* v : {&parts_->vocabulary, &parts_->also_added})
      if (const int id = v->find(token); id >= 0) return id;
    return std::nullopt;
  }
  /// The id of a token that must exist.
  int at(std::string_view token) const {
    const auto id = find(token);
    require(id.has_value(), "Tokenizer: no token ", casa::quoted(token));
    return *id;
  }
  /// The token of an id as the file writes it; an added token marked `normalized` in normalized
  /// form.
  const std::string& token(int id) const {
    require_id(id);
    require(has_token(id), "Tokenizer: no token has the id ", id);
    return parts_->tokens[static_cast<std::size_t>(id)];
  }
  /// Published files have holes: ids below vocab_size() without a token.
  bool has_token(int id) const {
    return id >= 0 && id < vocab_size() && parts_->assigned[static_cast<std::size_t>(id)];
  }
  /// Whether skip_special leaves it out: added tokens that are marked special, but, as in the
  /// reference, not those that normalisation changes.
  bool is_special(int id) const {
    return id >= 0 && id < vocab_size() && parts_->special[static_cast<std::size_t>(id)];
  }
  /// One more than the greatest id, added tokens included.
  int vocab_size() const { return static_cast<int>(parts_->tokens.size()); }
  /// The ids that encode puts before a text (bos).
  const std::vector<int>& prefix() const { return parts_->prefix; }
  /// The ids that encode puts after a text (eos).
  const std::vector<int>& suffix() const { return parts_->suffix; }

  /// Throws unless each of the ids is a row of an embedding table of that many rows. A token that
  /// no text holds may lie beyond it, as in published folders.
  void require_rows(std::span<const int> ids, Index embedding_rows) const {
    for (const int id : ids)
      require(id >= 0 && id < embedding_rows, "Tokenizer: the token ",
              has_token(id) ? casa::quoted(token(id)) : std::string("without a name"),
              " has the id ", id, ", but the model's embedding has ", embedding_rows, " rows");
  }

  /// What was read in another way than the file says, as the reference does it: a line each.
  const std::vector<std::string>& warnings() const { return parts_->warnings; }

 private:
  friend class StreamDecoder;

  void require_id(int id) const {
    require(id >= 0 && id < vocab_size(), "Tokenizer: id ", id, " is not in [0, ", vocab_size(),
            ")");
  }

  static std::string file_in(const std::string& path) {
    std::error_code ignored;
    return std::filesystem::is_directory(path, ignored) ? path + "/tokenizer.json" : path;
  }

  template <class Model>
  void encode_with(const Model& model, std::string_view text, std::span<const TextRange> plain,
                   std::vector<int>& ids) const {
    const detail::TokenizerParts& p = *parts_;
    typename Model::Scratch scratch;
    detail::WordCache cache(text.size());
    detail::Pretokenizer pretokenize(p.pretokenizer);
    const auto push_id = [&](const AddedToken& token) { ids.push_back(token.id); };
    const auto word = [&](std::string_view w) {
      cache.get(w, ids,
                [&](std::string_view s, std::vector<int>& out) { model.encode(s, out, scratch); });
    };
    const auto normalized = [&](std::string_view s, bool at_start, bool is_plain) {
      const TextRange all{0, s.size()};
      p.added_normalized.split(
          s, std::span(&all, is_plain ? 1 : 0),
          [&](std::size_t begin, std::size_t end) {
            pretokenize(s.substr(begin, end - begin), at_start && begin == 0, word);
          },
          push_id);
    };
    p.added.split(
        text, plain,
        [&](std::size_t begin, std::size_t end) {
          const std::string_view s = text.substr(begin, end - begin);
          const bool is_plain = holds_plain(text, {begin, end}, plain);
          if (p.normalizer.empty())
            normalized(s, begin == 0, is_plain);
          else
            normalized(p.normalizer(s), begin == 0, is_plain);
        },
        push_id);
  }

  /// Is any of text[range] plain? Then no special token is looked for in its normalized form, which
  /// has other places than the text. So the rest of it must not hold one that would be missed.
  bool holds_plain(std::string_view text, TextRange range, std::span<const TextRange> plain) const {
    std::size_t done = range.begin;
    bool any = false;
    const bool may_miss = parts_->added_normalized.has_special();
    const auto check = [&](std::size_t end) {
      if (!may_miss || done >= end) return;
      const std::string_view s = text.substr(done, end - done);
      require(!parts_->added_normalized.finds_special(parts_->normalizer(s)),
              "Tokenizer::encode: a special token that is marked normalized stands beside plain "
              "text, in ",
              casa::quoted(s));
    };
    auto r = std::upper_bound(plain.begin(), plain.end(), range.begin,
                              [](std::size_t at, const TextRange& x) { return at < x.end; });
    for (; r != plain.end() && r->begin < range.end; ++r) {
      if (r->begin == r->end) continue;
      any = true;
      check(r->begin);
      done = r->end;
    }
    if (any) check(range.end);
    return any;
  }

  std::shared_ptr<const detail::TokenizerParts> parts_;
};

/// Decodes ids one by one. What push() returns is final and valid UTF-8 (empty while a character is
/// incomplete); all that was pushed, and finish(), make what Tokenizer::decode gives.
class StreamDecoder {
 public:
  /// Keeps a copy of the tokenizer, which is cheap. `skip_special`: special tokens give no text.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special), run_(tokenizer.parts_->decoder) {}

  /// The text that is certain after this id. Throws casa::error for an id outside the vocabulary.
  std::string push(int id) {
    std::string piece;
    tokenizer_.require_id(id);
    if (tokenizer_.has_token(id) && !(skip_special_ && tokenizer_.is_special(id)))
      run_.push(tokenizer_.token(id), piece);
    return piece;
  }
  /// What was held back. The decoder then begins anew.
  std::string finish() {
    std::string piece;
    run_.finish(piece);
    return piece;
  }

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  detail::DecoderRun run_;
};

}  // namespace io
CASA_NAMESPACE_END
