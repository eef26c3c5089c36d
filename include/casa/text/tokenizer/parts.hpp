// What a tokenizer consists of, as its file describes it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "casa/files/limits.hpp"
#include "casa/text/tokenizer/added_tokens.hpp"
#include "casa/text/tokenizer/bpe.hpp"
#include "casa/text/tokenizer/decode.hpp"
#include "casa/text/tokenizer/normalize.hpp"
#include "casa/text/tokenizer/pretokenize.hpp"
#include "casa/text/tokenizer/unigram.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// What a tokenizer.json may ask for.
struct TokenizerOptions {
  LoadLimits limits = {};
  RegexLimits regex = {};
  /// Take regular expressions other than those of GPT-2, Qwen2, Llama 3 and GPT-4o. A stranger's
  /// pattern may take long for each match, up to `regex`.
  bool any_pattern = false;
  /// Pass over fields that we do not know, as the reference does: one that a newer reference knows
  /// may ask for something that we then do not do.
  bool unknown_fields = false;
};

namespace detail {

/// Made once by load_tokenizer, then only read.
struct TokenizerParts {
  TokenizerParts() = default;
  TokenizerParts(const TokenizerParts&) = delete;  // the models point to the vocabulary
  TokenizerParts& operator=(const TokenizerParts&) = delete;

  LoadLimits limits;
  AddedTokenFinder added;  // in the text as it comes
  Normalizer normalizer;
  AddedTokenFinder added_normalized;  // in the normalized text
  std::vector<PretokenizerStep> pretokenizer;
  Vocabulary vocabulary;   // of the model
  Vocabulary also_added;   // tokens that only "added_tokens" has
  std::optional<Bpe> bpe;  // one of the two
  std::optional<Unigram> unigram;
  std::vector<int> prefix, suffix;  // around a text that is encoded with special tokens
  std::vector<DecoderStep> decoder;
  std::vector<std::string> tokens;  // by id; the model's and the added ones, as decoded
  std::vector<bool> assigned;       // by id: has it a token?
  std::vector<bool> special;        // by id
  std::vector<std::string> warnings;
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
