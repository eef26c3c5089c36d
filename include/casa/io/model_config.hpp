// config.json as the configs of a decoder and its image encoder.
#pragma once

#include <optional>
#include <string>

#include "casa/io/fusion_config.hpp"
#include "casa/io/limits.hpp"
#include "casa/model/patch_encoder.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// A decoder whose config spells out every choice: the keys of DecoderConfig under their published
/// names, `rope_style` half or interleaved, and `fusion`. casa::error that names the key for one
/// that is missing, of another kind or out of range.
inline DecoderConfig decoder_config(const Json& j, const LoadLimits& limits = {}) {
  DecoderConfig c;
  c.num_hidden_layers = j.at("num_hidden_layers").as_int(1, limits.layers);
  c.num_attention_heads = j.at("num_attention_heads").as_int(1, limits.heads);
  c.num_key_value_heads = j.at("num_key_value_heads").as_int(1, limits.heads);
  c.hidden_size = j.at("hidden_size").as_int(1, limits.hidden_size);
  c.head_dim = j.at("head_dim").as_int(2, limits.head_dim);
  c.intermediate_size = j.at("intermediate_size").as_int(1, limits.intermediate_size);
  c.vocab_size = j.at("vocab_size").as_int(1, limits.vocab_size);
  c.rms_norm_eps = j.at("rms_norm_eps").as_number(1e-30, 1);
  c.rope.theta = j.at("rope_theta").as_number(1, 1e30);
  c.rope.style = detail::from_name(j.at("rope_style"), detail::rope_style_names);
  c.attention_bias = j.at("attention_bias").as_bool();
  c.attention_out_bias = j.at("attention_out_bias").as_bool();
  c.mlp_bias = j.at("mlp_bias").as_bool();
  c.tie_word_embeddings = j.at("tie_word_embeddings").as_bool();
  if (const auto fusion = j.find_set("fusion"))
    c.fusion = fusion_config(*fusion, c.num_hidden_layers);
  check(c);
  return c;
}

/// The `vision_config` of the digit readers; `out_hidden_size` is the decoder's hidden_size.
inline PatchEncoderConfig patch_encoder_config(const Json& j, Index out_hidden_size,
                                               const LoadLimits& limits = {}) {
  PatchEncoderConfig c;
  c.image_size = j.at("image_size").as_int(1, limits.image_side);
  c.patch_size = j.at("patch_size").as_int(1, c.image_size);
  c.hidden_size = j.at("hidden_size").as_int(1, limits.hidden_size);
  c.num_hidden_layers = j.at("num_hidden_layers").as_int(1, limits.layers);
  c.num_attention_heads = j.at("num_attention_heads").as_int(1, limits.heads);
  c.intermediate_size = j.at("intermediate_size").as_int(1, limits.intermediate_size);
  c.rms_norm_eps = j.at("rms_norm_eps").as_number(1e-30, 1);
  c.out_hidden_size = out_hidden_size;
  check(c);
  return c;
}

}  // namespace io
CASA_NAMESPACE_END
