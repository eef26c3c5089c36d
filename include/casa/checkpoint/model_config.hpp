// config.json as the configs of a decoder and its image encoder.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "casa/checkpoint/families.hpp"
#include "casa/checkpoint/fusion_config.hpp"
#include "casa/checkpoint/rope_config.hpp"
#include "casa/checkpoint/sliding_config.hpp"
#include "casa/files/limits.hpp"
#include "casa/vision/patch_encoder.hpp"
#include "casa/vision/vision_config.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Token ids that a program around a model needs. Absent where the folder names none.
struct SpecialTokens {
  std::vector<int> eos;             ///< generation ends with any of them
  std::optional<int> bos;           ///< begins a text
  std::optional<int> image;         ///< stands for image tokens under token insertion
  std::optional<int> video;         ///< stands for tokens of a video
  std::optional<int> vision_start;  ///< stands before an image
  std::optional<int> vision_end;    ///< stands after an image
};

/// A config.json as it was understood.
struct ModelConfig {
  std::string model_type;                           ///< the family (io::families)
  DecoderConfig decoder;                            ///< sizes and choices of the language model
  std::optional<PatchEncoderConfig> patch_encoder;  ///< of the digit readers
  std::optional<VisionTowerConfig> vision_tower;    ///< of Qwen2.5-VL
  SpecialTokens tokens;                             ///< ids that generation needs
  Index max_position_embeddings = 0;                ///< what the model was trained to; 0: not said
};

/// A decoder whose config spells out every choice: the keys of DecoderConfig under their published
/// names, `rope_style` half or interleaved, and `fusion`. casa::error that names the key for one
/// that is missing, of another kind or out of range.
inline DecoderConfig decoder_config(const Json& j, const LoadLimits& limits = {}) {
  DecoderConfig c;
  c.num_hidden_layers = j.at("num_hidden_layers").as_index(1, limits.layers, "LoadLimits::layers");
  c.num_attention_heads =
      j.at("num_attention_heads").as_index(1, limits.heads, "LoadLimits::heads");
  c.num_key_value_heads =
      j.at("num_key_value_heads").as_index(1, limits.heads, "LoadLimits::heads");
  c.hidden_size = j.at("hidden_size").as_index(1, limits.hidden_size, "LoadLimits::hidden_size");
  c.head_dim = j.at("head_dim").as_index(2, limits.head_dim, "LoadLimits::head_dim");
  c.intermediate_size = j.at("intermediate_size")
                            .as_index(1, limits.intermediate_size, "LoadLimits::intermediate_size");
  c.vocab_size = j.at("vocab_size").as_index(1, limits.vocab_size, "LoadLimits::vocab_size");
  c.rms_norm_eps = j.at("rms_norm_eps").as_number(1e-30, 1);
  c.rope.theta = detail::rope_theta(j.at("rope_theta"));
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
  c.image_size = j.at("image_size").as_index(1, limits.image_side, "LoadLimits::image_side");
  c.patch_size = j.at("patch_size").as_index(1, c.image_size);
  c.hidden_size = j.at("hidden_size").as_index(1, limits.hidden_size, "LoadLimits::hidden_size");
  c.num_hidden_layers = j.at("num_hidden_layers").as_index(1, limits.layers, "LoadLimits::layers");
  c.num_attention_heads =
      j.at("num_attention_heads").as_index(1, limits.heads, "LoadLimits::heads");
  c.intermediate_size = j.at("intermediate_size")
                            .as_index(1, limits.intermediate_size, "LoadLimits::intermediate_size");
  c.rms_norm_eps = j.at("rms_norm_eps").as_number(1e-30, 1);
  c.out_hidden_size = out_hidden_size;
  check(c);
  return c;
}

namespace detail {

inline bool has(Has what, const Json& j, std::string_view key) {
  if (what != Has::as_configured) return what == Has::always;
  const auto configured = j.find_set(key);
  return configured && configured->as_bool();
}

/// The integer of that key, or `otherwise` where the key is absent or null.
inline Index int_or(const Json& j, std::string_view key, std::int64_t low, std::int64_t high,
                    Index otherwise, std::string_view option = {}) {
  const auto value = j.find_set(key);
  return value ? value->as_index(low, high, option) : otherwise;
}

inline void require_silu(const Json& j) {
  if (const auto act = j.find_set("hidden_act"))
    if (!act->is_string() || (act->as_string() != "silu" && act->as_string() != "swish"))
      act->fail_expected("\"silu\" (or \"swish\", its other name)");
}

/// Features that change what a model computes and that this library does not have.
inline void require_supported(const Json& j) {
  require_silu(j);
  if (const auto quantized = j.find_set("quantization_config"))
    quantized->fail_expected("null (quantized checkpoints are not supported)");
}

inline DecoderConfig family_decoder(const Json& text, const Json& outer, const Family& family,
                                    const LoadLimits& limits) {
  require_supported(text);
  if (const auto quantized = outer.find_set("quantization_config"))
    quantized->fail_expected("null (quantized checkpoints are not supported)");
  DecoderConfig c;
  c.num_hidden_layers =
      text.at("num_hidden_layers").as_index(1, limits.layers, "LoadLimits::layers");
  c.num_attention_heads =
      text.at("num_attention_heads").as_index(1, limits.heads, "LoadLimits::heads");
  c.num_key_value_heads = int_or(text, "num_key_value_heads", 1, limits.heads,
                                 c.num_attention_heads, "LoadLimits::heads");
  c.hidden_size = text.at("hidden_size").as_index(1, limits.hidden_size, "LoadLimits::hidden_size");
  c.head_dim =
      int_or(text, "head_dim", 2, limits.head_dim, family.head_dim, "LoadLimits::head_dim");
  if (c.head_dim == 0) {
    if (c.hidden_size % c.num_attention_heads != 0)
      text.at("num_attention_heads")
          .fail_expected(casa::text("a divisor of hidden_size, ", c.hidden_size));
    c.head_dim = c.hidden_size / c.num_attention_heads;
  }
  c.intermediate_size = text.at("intermediate_size")
                            .as_index(1, limits.intermediate_size, "LoadLimits::intermediate_size");
  c.vocab_size = text.at("vocab_size").as_index(1, limits.vocab_size, "LoadLimits::vocab_size");
  const auto eps = text.find_set("rms_norm_eps");
  c.rms_norm_eps = eps ? eps->as_number(1e-30, 1) : family.rms_norm_eps;
  c.attention_bias = has(family.attention_bias, text, "attention_bias");
  c.attention_out_bias = has(family.attention_out_bias, text, "attention_bias");
  c.mlp_bias = has(family.mlp_bias, text, "mlp_bias");
  for (const Json& j : {text, outer})  // either's word is enough, as in transformers
    if (const auto tied = j.find_set("tie_word_embeddings"))
      c.tie_word_embeddings = tied->as_bool() || c.tie_word_embeddings;
  read_sliding(text, family, limits, c);
  check(c);
  const bool slides = !c.sliding_layers.empty();
  const bool stays = static_cast<Index>(c.sliding_layers.size()) < c.num_hidden_layers;
  c.rope = rope_config(text, family, c.head_dim, stays, slides, limits);
  return c;
}

inline VisionTowerConfig vision_tower_config(const Json& j, Index out_hidden_size,
                                             const LoadLimits& limits) {
  require_silu(j);
  VisionTowerConfig c;
  c.depth = int_or(j, "depth", 1, limits.layers, c.depth, "LoadLimits::layers");
  c.hidden_size =
      int_or(j, "hidden_size", 1, limits.hidden_size, c.hidden_size, "LoadLimits::hidden_size");
  c.num_heads = int_or(j, "num_heads", 1, limits.heads, c.num_heads, "LoadLimits::heads");
  c.intermediate_size = int_or(j, "intermediate_size", 1, limits.intermediate_size,
                               c.intermediate_size, "LoadLimits::intermediate_size");
  c.out_hidden_size = int_or(j, "out_hidden_size", 1, limits.hidden_size, out_hidden_size,
                             "LoadLimits::hidden_size");
  if (c.out_hidden_size != out_hidden_size)
    j.at("out_hidden_size")
        .fail_expected(casa::text("the decoder's hidden_size, ", out_hidden_size));
  for (const std::string_view key : {"in_chans", "in_channels"})
    c.in_channels = int_or(j, key, 1, 64, c.in_channels);
  c.patch_size = int_or(j, "patch_size", 1, 1024, c.patch_size);
  c.temporal_patch_size = int_or(j, "temporal_patch_size", 1, 64, c.temporal_patch_size);
  c.spatial_merge_size = int_or(j, "spatial_merge_size", 1, 64, c.spatial_merge_size);
  c.window_size = int_or(j, "window_size", 1, std::int64_t{1} << 20, c.window_size);
  if (const auto full = j.find_set("fullatt_block_indexes")) {
    c.fullatt_block_indexes.clear();
    for (const Json& block : full->elements())
      c.fullatt_block_indexes.push_back(block.as_index(0, c.depth - 1));
  } else {
    std::erase_if(c.fullatt_block_indexes, [&](Index block) { return block >= c.depth; });
  }
  if (const auto rope = j.find_set("rope_parameters")) {
    require_known_keys(*rope, {"rope_type", "rope_theta"}, limits);
    if (const auto type = rope->find_set("rope_type"))
      if (type->as_string() != "axial" && type->as_string() != "default")
        type->fail_expected("\"axial\" or \"default\"");
    if (const auto theta = rope->find_set("rope_theta")) c.rope_theta = rope_theta(*theta);
  }
  check(c);
  return c;
}

/// A token's id; nullopt for one that no vocabulary has, mostly negative: so configs say that there
/// is no such token.
inline std::optional<int> as_token_id(const Json& id, const LoadLimits& limits) {
  if (!id.is_integer()) id.fail_expected("an integer");
  if (id.kind() != Json::Kind::integer || id.as_int() < 0 || id.as_int() >= limits.vocab_size)
    return std::nullopt;
  return static_cast<int>(id.as_int());
}

}  // namespace detail

/// What `j` (config.json or generation_config.json) says of special tokens is put into `tokens`;
/// eos_token_id may be a number or a list. Ids outside [0, limits.vocab_size) name no token.
/// casa::error for what is no integer.
inline void read_special_tokens(const Json& j, SpecialTokens& tokens,
                                const LoadLimits& limits = {}) {
  if (const auto eos = j.find_set("eos_token_id")) {
    tokens.eos.clear();
    const auto add = [&](const Json& id) {
      if (const auto token = detail::as_token_id(id, limits)) tokens.eos.push_back(*token);
    };
    if (eos->is_array())
      for (const Json& id : eos->elements()) add(id);
    else
      add(*eos);
  }
  const auto read = [&](const char* key, std::optional<int>& to) {
    if (const auto id = j.find_set(key)) to = detail::as_token_id(*id, limits);
  };
  read("bos_token_id", tokens.bos);
  read("image_token_id", tokens.image);
  read("video_token_id", tokens.video);
  read("vision_start_token_id", tokens.vision_start);
  read("vision_end_token_id", tokens.vision_end);
}

/// A config.json of a known `model_type`. Older and newer layouts; the text settings flat or in
/// `text_config`; a `fusion` object says how text looks at images, without it a model with a vision
/// tower takes images as tokens of the stream. casa::error that names the key and its value for
/// what is missing, out of range, of another kind, or not supported.
inline ModelConfig model_config(const Json& j, const LoadLimits& limits = {}) {
  ModelConfig m;
  const Json type = j.at("model_type");
  const Family* family = find_family(type);
  m.model_type = type.as_string();
  const auto vision = j.find_set("vision_config");
  if (!family) {
    m.decoder = decoder_config(j, limits);
    if (vision) m.patch_encoder = patch_encoder_config(*vision, m.decoder.hidden_size, limits);
    read_special_tokens(j, m.tokens, limits);
    return m;
  }
  Json text = j;
  if (const auto nested = j.find_set("text_config")) {
    if (const auto name = nested->find_set("model_type"))
      if (name->as_string() != m.model_type && name->as_string() != m.model_type + "_text")
        name->fail_expected(casa::text("\"", m.model_type, "_text\""));
    read_special_tokens(*nested, m.tokens, limits);
    text = *nested;
  }
  m.decoder = detail::family_decoder(text, j, *family, limits);
  read_special_tokens(j, m.tokens, limits);
  m.max_position_embeddings =
      detail::int_or(text, "max_position_embeddings", 1, std::int64_t{1} << 40, 0);
  if (vision && !family->vision) vision->fail_expected("null in a model without images");
  if (family->vision)
    m.vision_tower =
        detail::vision_tower_config(j.at("vision_config"), m.decoder.hidden_size, limits);
  const auto fusion = j.find_set("fusion");
  if (fusion) m.decoder.fusion = fusion_config(*fusion, m.decoder.num_hidden_layers);
  if (!fusion && family->vision) {
    std::vector<int> layers(static_cast<std::size_t>(m.decoder.num_hidden_layers));
    std::iota(layers.begin(), layers.end(), 0);
    m.decoder.fusion = presets::token_insertion(std::move(layers));
  }
  check(m.decoder);
  return m;
}

}  // namespace io
CASA_NAMESPACE_END
