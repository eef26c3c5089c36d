// What a file of unknown origin may demand: every limit of the loaders, by name.
//
// A loader checks a limit before it allocates anything that the file's own numbers ask for, and its
// error names the limit. The defaults let published models and photographs through; a file that is
// larger than any of them is refused, so that no header can make a program allocate without bound.
#pragma once

#include <cstdint>

#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// The most that each part of a file may hold. Raise a limit by name:
/// LoadLimits{.header_bytes = 100'000'000}. Numbers ending in `_bytes` are bytes.
struct LoadLimits {
  // JSON files (config, index, tokenizer)
  std::int64_t json_bytes = std::int64_t{64} << 20;  ///< a JSON file
  std::int64_t json_depth = 64;                      ///< arrays and objects inside one another

  // safetensors
  std::int64_t header_bytes = std::int64_t{16} << 20;  ///< a header; the format allows 100,000,000
  std::int64_t header_depth = 8;                       ///< nesting of a header's JSON
  std::int64_t tensors = 1'000'000;                    ///< tensors of one file
  std::int64_t name_bytes = 512;                       ///< the name of a tensor
  std::int64_t axes = 8;                               ///< axes of a tensor
  std::int64_t axis = std::int64_t{1} << 40;           ///< values along one axis
  std::int64_t shards = 1024;                          ///< files of one checkpoint
  bool control_characters = false;  ///< true: names of tensors may hold control characters
  /// True: of a tensor that two shards hold with different values, the last file's is taken, as
  /// transformers does. False: that is an error. Equal copies are never one.
  bool repeated_tensors = false;
  /// True: tensors that an index lists and no file holds are passed over, as transformers does.
  bool stale_index = false;
  bool follow_links = true;  ///< the Hugging Face cache is links; false opens with O_NOFOLLOW

  // config.json
  std::int64_t layers = 1024;                              ///< blocks of a decoder or a tower
  std::int64_t heads = 1024;                               ///< query or key/value heads
  std::int64_t head_dim = 1024;                            ///< values of a head
  std::int64_t hidden_size = 131'072;                      ///< width of the residual stream
  std::int64_t intermediate_size = std::int64_t{1} << 20;  ///< width of an MLP
  std::int64_t vocab_size = std::int64_t{1} << 21;         ///< rows of the embedding
  std::int64_t window = std::int64_t{1} << 31;             ///< tokens of a sliding window
  /// True: keys of rope_parameters that its rope_type does not read are passed over, as
  /// transformers does.
  bool unknown_rope_keys = false;

  // tokenizer.json
  std::int64_t tokenizer_bytes = std::int64_t{64} << 20;  ///< the file
  std::int64_t tokens = std::int64_t{1} << 21;            ///< tokens, added ones included
  std::int64_t merges = std::int64_t{1} << 22;            ///< merge rules of BPE
  std::int64_t token_bytes = 1024;                        ///< one token, or one replacement text
  std::int64_t pattern_bytes = 4096;                      ///< the source of a regular expression
  std::int64_t text_bytes = std::int64_t{8} << 20;        ///< the text of one call of encode

  // images
  std::int64_t image_bytes = std::int64_t{64} << 20;   ///< an image file
  std::int64_t image_side = 16'384;                    ///< pixels of its height, and of its width
  std::int64_t image_pixels = std::int64_t{64} << 20;  ///< height times width
};

}  // namespace io
CASA_NAMESPACE_END
