// What a file from a stranger may ask for: every limit of the loaders, by name.
#pragma once

#include <cstdint>

#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Limits that hold before anything is allocated. Raise one by name: LoadLimits{.header_bytes =
/// ...}.
struct LoadLimits {
  // JSON files (config, index, tokenizer)
  std::int64_t json_bytes = std::int64_t{64} << 20;
  std::int64_t json_depth = 64;

  // safetensors
  std::int64_t header_bytes = std::int64_t{16} << 20;  ///< the format allows 100,000,000
  std::int64_t header_depth = 8;
  std::int64_t tensors = 1'000'000;
  std::int64_t name_bytes = 512;
  std::int64_t axes = 8;
  std::int64_t axis = std::int64_t{1} << 40;
  std::int64_t shards = 1024;
  bool control_characters = false;  ///< in names of tensors
  /// A tensor that two shards hold with different values: the last file's counts, as in
  /// transformers, instead of an error. Copies that are equal are none.
  bool repeated_tensors = false;
  /// An index that lists tensors which no file holds: passed over, as in transformers.
  bool stale_index = false;
  bool follow_links = true;  ///< the Hugging Face cache is links; false opens with O_NOFOLLOW

  // config.json
  std::int64_t layers = 1024;
  std::int64_t heads = 1024;
  std::int64_t head_dim = 1024;
  std::int64_t hidden_size = 131'072;
  std::int64_t intermediate_size = std::int64_t{1} << 20;
  std::int64_t vocab_size = std::int64_t{1} << 21;
  std::int64_t window = std::int64_t{1} << 31;
  /// Keys of rope_parameters that its rope_type does not read: passed over, as in transformers.
  bool unknown_rope_keys = false;

  // tokenizer.json
  std::int64_t tokenizer_bytes = std::int64_t{64} << 20;
  std::int64_t tokens = std::int64_t{1} << 21;
  std::int64_t merges = std::int64_t{1} << 22;
  std::int64_t token_bytes = 1024;
  std::int64_t pattern_bytes = 4096;
  std::int64_t text_bytes = std::int64_t{8} << 20;  ///< in one call of encode

  // images
  std::int64_t image_bytes = std::int64_t{64} << 20;
  std::int64_t image_side = 16'384;
  std::int64_t image_pixels = std::int64_t{64} << 20;
};

}  // namespace io
CASA_NAMESPACE_END
