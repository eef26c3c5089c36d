// The families of models that are known: what their config.json leaves unsaid, and the names of
// their tensors. A new family is a new row of the table `families`.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "casa/json/json_value.hpp"
#include "casa/layers/rope.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Whether a family has something: never, always, or as its config says.
enum class Has { never, always, as_configured };

/// What `model_type` stands for beyond the numbers that every config.json spells out.
struct Family {
  std::string_view model_type;  ///< as config.json names it
  RopeStyle rope_style;         ///< which values of a head are rotated together
  Has attention_bias;           ///< on q, k, v; the key is attention_bias
  Has attention_out_bias;       ///< on o; the key is attention_bias too
  Has mlp_bias;                 ///< on gate, up and down; the key is mlp_bias
  bool vision;                  ///< images through Qwen2.5-VL's tower, M-RoPE in the decoder
  // What holds where config.json lacks the key.
  double rms_norm_eps;            ///< added to the mean square in RMSNorm
  double rope_theta;              ///< base of the rotary frequencies
  Index head_dim;                 ///< 0: hidden_size / num_attention_heads
  Index max_position_embeddings;  ///< tokens that the model was trained to
  Index max_window_layers;        ///< blocks before those that slide; 0: a family without windows
};

/// The known families.
inline constexpr std::array<Family, 4> families{{
    {"helium", RopeStyle::interleaved, Has::as_configured, Has::never, Has::as_configured, false,
     1e-8, 1e5, 128, 4096, 0},
    {"llama", RopeStyle::half, Has::as_configured, Has::as_configured, Has::as_configured, false,
     1e-6, 1e4, 0, 2048, 0},
    {"qwen2", RopeStyle::half, Has::always, Has::never, Has::never, false, 1e-6, 1e4, 0, 32768, 28},
    {"qwen2_5_vl", RopeStyle::half, Has::always, Has::never, Has::never, true, 1e-5, 1e6, 0, 32768,
     80},
}};

/// The `model_type` of a folder whose config.json spells out every choice (decoder_config).
inline constexpr std::string_view explicit_model_type = "casa_digits";

/// The family that `model_type` (a string of a config.json) names, or casa::error that lists the
/// known ones; null for explicit_model_type.
inline const Family* find_family(const Json& model_type) {
  std::string known = text("one of \"", explicit_model_type, "\"");
  if (model_type.is_string() && model_type.as_string() == explicit_model_type) return nullptr;
  for (const Family& f : families) {
    if (model_type.is_string() && model_type.as_string() == f.model_type) return &f;
    known += text(", \"", f.model_type, "\"");
  }
  model_type.fail_expected(known);
}

/// How a checkpoint names its parts.
struct KeyPrefixes {
  std::string_view text;    ///< stands before "layers.0..." and "embed_tokens.weight"
  std::string_view vision;  ///< stands before "blocks.0..." of the vision tower
  std::string_view head;    ///< the whole name of the output head's weight
};

/// The namings that are known; a new one is a new line.
inline constexpr std::array<KeyPrefixes, 3> key_prefixes{{
    {"model.", "visual.", "lm_head.weight"},
    {"model.language_model.", "model.visual.", "lm_head.weight"},
    {"language_model.model.", "visual.", "language_model.lm_head.weight"},
}};

/// The naming under which most tensors of `files` (SafeTensors, Checkpoint) are a decoder's; the
/// first naming if no tensor fits any.
template <class Files>
const KeyPrefixes& find_prefixes(const Files& files) {
  const KeyPrefixes* best = &key_prefixes[0];
  Index most = 0;
  for (const KeyPrefixes& p : key_prefixes) {
    const std::string layers = std::string(p.text) + "layers.";
    Index count = 0;
    for (const std::string_view name : files.names()) count += name.starts_with(layers);
    if (count > most) {
      most = count;
      best = &p;
    }
  }
  return *best;
}

}  // namespace io
CASA_NAMESPACE_END
