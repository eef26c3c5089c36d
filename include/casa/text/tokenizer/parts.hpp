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
  LoadLimits limits = {};  ///< sizes of the file, its tokens and the texts to encode
  RegexLimits regex = {};  ///< what one match of its regular expressions may cost
  /// True: regular expressions other than those of GPT-2, Qwen2, Llama 3 and GPT-4o are used, too.
  /// An unknown pattern may take long for each match, up to `regex`.
  bool any_pattern = false;
  /// True: fields that this library does not know are passed over, as the Python package does. A
  /// field of a newer version of the format may ask for something that is then not done.
  bool unknown_fields = false;
};

namespace detail {

/// Filled once by TokenizerLoader, then only read, so that threads may share it.
struct TokenizerParts {
  TokenizerParts() = default;
  TokenizerParts(const TokenizerParts&) = delete;  // the models point to the vocabulary
  TokenizerParts& operator=(const TokenizerParts&) = delete;

  LoadLimits limits;
  AddedTokenFinder added;  // looked for in the text before it is normalized
  Normalizer normalizer;
  AddedTokenFinder added_normalized;  // in the normalized text
  std::vector<PretokenizerStep> pretokenizer;
  Vocabulary vocabulary;   // of the model
  Vocabulary also_added;   // tokens that only "added_tokens" has
  std::optional<Bpe> bpe;  // either bpe or unigram is set
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
