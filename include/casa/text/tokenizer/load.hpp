// tokenizer.json, the format of the Python package `tokenizers` ("the reference" below), to
// TokenizerParts. A file that asks for something that is not implemented is refused by name.
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/json/json.hpp"
#include "casa/text/tokenizer/load_steps.hpp"
#include "casa/text/tokenizer/parts.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// Fills `parts` from a tokenizer.json.
class TokenizerLoader {
 public:
  TokenizerLoader(const Json& file, const TokenizerOptions& options, TokenizerParts& parts)
      : file_(file), options_(options), parts_(parts) {}

  void load() {
    require_fields(file_,
                   {"version", "truncation", "padding", "added_tokens", "normalizer",
                    "pre_tokenizer", "post_processor", "decoder", "model"},
                   options_);
    // "truncation" and "padding" are what the last call before saving asked for. The reference
    // sets them anew for each call, so they say nothing about this one.
    parts_.limits = options_.limits;
    const StepLoader steps(options_);
    std::vector<NormalizerStep> normalizer;
    if (const auto json = file_.find_set("normalizer")) steps.normalizer(*json, normalizer);
    parts_.normalizer = Normalizer(std::move(normalizer));
    if (const auto json = file_.find_set("pre_tokenizer"))
      steps.pretokenizer(*json, parts_.pretokenizer, byte_level_);
    load_tokens(file_.at("model"));
    if (const auto json = file_.find_set("post_processor")) load_post_processor(*json);
    if (const auto json = file_.find_set("decoder"))
      steps.decoder(*json, parts_.decoder);
    else
      parts_.decoder.push_back({DecoderStep::Kind::join});
  }

 private:
  /// The model's tokens and the added ones. Ids may have holes: published files do.
  void load_tokens(const Json& model) {
    const auto type = model.find_set("type");
    const bool is_bpe = type ? type->as_string() == "BPE" : model.contains("merges");
    if (!is_bpe && !(type && type->as_string() == "Unigram"))
      fail_unsupported(type ? *type : model);
    const auto added = file_.find_set("added_tokens");
    const Index most = checked_add(model.at("vocab").size(), added ? added->size() : 0, "tokens");
    require(most <= 2 * options_.limits.tokens, file_.where(), ": ", most,
            " tokens are more than the limit of ", options_.limits.tokens);
    parts_.tokens.reserve(static_cast<std::size_t>(most));
    is_bpe ? load_bpe(model) : load_unigram(model);
    if (added) load_added_tokens(*added);
    require(static_cast<std::int64_t>(count_) <= options_.limits.tokens, file_.where(), ": ",
            count_, " tokens are more than the limit of ", options_.limits.tokens);
  }

  /// A token of the model. Two tokens with one id are refused: which of them the reference decodes
  /// depends on the order of a hash map.
  void assign(const Json& json, std::string_view token, int id) {
    const auto i = static_cast<std::size_t>(id);
    if (i < parts_.assigned.size() && parts_.assigned[i])
      fail(json.where(), ": id ", id, " has two tokens: ", casa::quoted(parts_.tokens[i]), " and ",
           casa::quoted(token));
    set_token(json, token, id);
  }
  void set_token(const Json& json, std::string_view token, int id) {
    const auto i = static_cast<std::size_t>(id);
    if (static_cast<std::int64_t>(token.size()) > options_.limits.token_bytes)
      fail(json.where(), ": token ", casa::quoted(token), " is longer than ",
           options_.limits.token_bytes, " bytes");
    // (Not require(): where() searches the file, which for every token took a minute of 49,152.)
    if (id >= options_.limits.tokens)
      fail(json.where(), ": id ", id, " is not below the limit of ", options_.limits.tokens,
           " tokens");
    if (i >= parts_.tokens.size()) {
      parts_.tokens.resize(i + 1);
      parts_.assigned.resize(i + 1);
      parts_.special.resize(i + 1);
    }
    parts_.assigned[i] = true;
    parts_.tokens[i] = token;
    ++count_;
  }
  int id_of(const Json& json) const {
    return static_cast<int>(json.as_int(0, options_.limits.tokens - 1));
  }

  void load_bpe(const Json& json) {
    require_fields(
        json,
        {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
         "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"},
        options_);
    if (const auto dropout = json.find_set("dropout"); dropout && dropout->as_number() != 0)
      fail_unsupported(*dropout);
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const auto field = json.find_set(affix); field && !field->as_string().empty())
        fail_unsupported(*field);
    const Json vocab = json.at("vocab");
    for (const auto& [token, value] : vocab.items()) {
      const int id = id_of(value);
      assign(value, token, id);
      parts_.vocabulary.add(token, id);
    }
    const Json list = json.at("merges");
    require(list.size() <= options_.limits.merges, list.where(), ": ", list.size(),
            " merges are more than the limit of ", options_.limits.merges);
    std::vector<BpeMerge> merges;
    merges.reserve(static_cast<std::size_t>(list.size()));
    std::string joined;
    for (const Json& merge : list.elements()) {
      const auto [left, right] = merge_parts(merge);
      joined.assign(left).append(right);
      merges.push_back({merge_id(merge, left), merge_id(merge, right), merge_id(merge, joined)});
    }
    BpeOptions options;
    options.byte_level = byte_level_;
    options.byte_fallback = flag(json, "byte_fallback", false);
    options.fuse_unk = flag(json, "fuse_unk", false);
    options.ignore_merges = flag(json, "ignore_merges", false);
    if (const auto unk = json.find_set("unk_token")) {
      options.unk_id = parts_.vocabulary.find(unk->as_string());
      if (options.unk_id < 0) options.missing_unk = unk->as_string();
    }
    parts_.bpe.emplace(parts_.vocabulary, merges, options);
  }

  /// "a b" or ["a", "b"].
  static std::pair<std::string_view, std::string_view> merge_parts(const Json& merge) {
    if (merge.is_array()) {
      if (merge.size() != 2) merge.fail_expected("two tokens");
      return {merge.at(0).as_string(), merge.at(1).as_string()};
    }
    const std::string_view line = merge.as_string();
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
      merge.fail_expected("two tokens with one space between them");
    return {line.substr(0, space), line.substr(space + 1)};
  }
  int merge_id(const Json& merge, std::string_view token) const {
    const int id = parts_.vocabulary.find(token);
    if (id < 0) fail(merge.where(), ": ", casa::quoted(token), " is not in the vocabulary");
    return id;
  }

  void load_unigram(const Json& json) {
    require_fields(json, {"type", "unk_id", "vocab", "byte_fallback"}, options_);
    require(!byte_level_, json.where(), ": Unigram after ByteLevel is not supported");
    const Json vocab = json.at("vocab");
    std::vector<double> scores;
    scores.reserve(static_cast<std::size_t>(vocab.size()));
    for (const Json& piece : vocab.elements()) {
      if (!piece.is_array() || piece.size() != 2) piece.fail_expected("[token, score]");
      const auto id = static_cast<int>(scores.size());
      const std::string& token = piece.at(0).as_string();
      assign(piece, token, id);
      parts_.vocabulary.set(token, id);  // of equal pieces the last counts
      scores.push_back(piece.at(1).as_number());
    }
    int unk_id = -1;
    if (const auto unk = json.find_set("unk_id"))
      unk_id = static_cast<int>(unk->as_int(0, vocab.size() - 1));
    parts_.unigram.emplace(parts_.vocabulary, std::move(scores), unk_id,
                           flag(json, "byte_fallback", false));
  }

  /// Gives added tokens the ids that the reference gives them, whatever "id" says: a token of the
  /// vocabulary keeps its id there, the others get the next free ids in the order of the list. Of
  /// equal contents the first counts; an empty one is ignored.
  void load_added_tokens(const Json& list) {
    std::vector<AddedToken> raw, normalized;
    StringTable seen;
    const auto size = static_cast<int>(count_);
    int last = -1;
    for (const Json& json : list.elements()) {
      AddedToken token = added_token(json);
      if (token.content.empty() || seen.find(token.content) != StringTable::npos) continue;
      seen.add(token.content);
      const int known = parts_.vocabulary.find(token.content);
      const int id = known >= 0 ? known : (std::max)(last + 1, size);
      if (id != token.id)
        parts_.warnings.push_back(text(json.where(), ": token ", casa::quoted(token.content),
                                       " has the id ", id, ", not ", token.id,
                                       ": transformers counts so"));
      token.id = id;
      last = (std::max)(last, id);
      if (known < 0) {
        set_token(json, token.content, id);
        parts_.also_added.add(token.content, id);
      }
      const auto i = static_cast<std::size_t>(id);
      if (token.normalized) parts_.tokens[i] = parts_.normalizer(token.content);
      // The reference looks for the decoded form among the special tokens as they are written.
      parts_.special[i] = token.special && parts_.tokens[i] == token.content;
      (token.normalized ? normalized : raw).push_back(token);
    }
    parts_.added = AddedTokenFinder(std::move(raw), Normalizer());
    parts_.added_normalized = AddedTokenFinder(std::move(normalized), parts_.normalizer);
  }

  AddedToken added_token(const Json& json) const {
    require_fields(json,
                   {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"},
                   options_);
    AddedToken token;
    token.id = any_id(json.at("id"));
    token.content = json.at("content").as_string();
    token.single_word = json.at("single_word").as_bool();
    token.lstrip = json.at("lstrip").as_bool();
    token.rstrip = json.at("rstrip").as_bool();
    token.normalized = json.at("normalized").as_bool();
    token.special = json.at("special").as_bool();
    return token;
  }

  void load_post_processor(const Json& json) {
    const std::string type = json.at("type").as_string();
    if (type == "ByteLevel") return;  // changes offsets into the text, which are not given here
    if (type == "Sequence") {
      require_fields(json, {"type", "processors"}, options_);
      for (const Json& part : json.at("processors").elements()) load_post_processor(part);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      require_fields(json, {"type", "sep", "cls", "trim_offsets", "add_prefix_space"}, options_);
      only_template(json);
      parts_.prefix.push_back(any_id(json.at("cls").at(1)));
      parts_.suffix.push_back(any_id(json.at("sep").at(1)));
    } else if (type == "TemplateProcessing") {
      require_fields(json, {"type", "single", "pair", "special_tokens"}, options_);
      only_template(json);
      bool after = false;
      for (const Json& item : json.at("single").elements()) {
        require_fields(item, {"Sequence", "SpecialToken"}, options_);
        if (const auto sequence = item.find("Sequence")) {
          if (after || (*sequence).at("id").as_string() != "A") fail_unsupported(item);
          after = true;
        } else {
          const Json name = item.at("SpecialToken").at("id");
          const Json token = json.at("special_tokens").at(name.as_string());
          for (const Json& id : token.at("ids").elements())
            (after ? parts_.suffix : parts_.prefix).push_back(any_id(id));
        }
      }
      require(after, json.at("single").where(), ": the text itself is missing");
    } else {
      fail_unsupported(json.at("type"));
    }
  }

  void only_template(const Json& json) {
    require(!has_template_, json.where(), ": a second template is not supported");
    has_template_ = true;
  }
  /// An id that need not have a token here. The model's embedding checks its range when it is used.
  static int any_id(const Json& json) {
    return static_cast<int>(json.as_int(0, (std::numeric_limits<int>::max)()));
  }

  const Json& file_;
  const TokenizerOptions& options_;
  TokenizerParts& parts_;
  std::size_t count_ = 0;
  bool byte_level_ = false;
  bool has_template_ = false;
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
