// The shape of a decoder and the point of the design space at which it sees images.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "casa/attention/attention.hpp"
#include "casa/core/error.hpp"
#include "casa/layers/rope.hpp"
#include "casa/stream/positions.hpp"
#include "casa/stream/visibility.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// h += F(h); h += SA(h)  |  h += SA(h) + F(h)  |  h += F(h)       (difference D3 of arXiv
/// 2512.19535)
enum class Placement { before, parallel, replace };
/// Whether fusion has weights of its own or those of the block's self-attention (D1); same for
/// norms.
enum class Sharing { own, shared };
/// What image tokens go through in a fusion block (D4).
enum class ImageUpdate { none, ffn, attention_ffn };
/// F alone, or F times tanh of a learned number.
enum class Gate { none, tanh };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// How text looks at images: a point of the design space that holds CASA, cross-attention and token
/// insertion. Data only; equal configs behave equally.
struct FusionConfig {
  Keys keys = Keys::image_text;
  Placement placement = Placement::parallel;
  Sharing parameters = Sharing::own;
  Sharing norm = Sharing::shared;
  ImageUpdate update = ImageUpdate::none;
  History history = History::window;
  ImageRope image_rope = ImageRope::window_start;
  Gate gate = Gate::none;
  std::vector<int> layers;  ///< blocks that have it, ascending

  bool has_layer(Index layer) const {
    for (const int l : layers)
      if (l == layer) return true;
    return false;
  }
  friend bool operator==(const FusionConfig&, const FusionConfig&) = default;
};

/// Named points of the design space. All take the blocks that have fusion.
namespace presets {

inline FusionConfig casa(std::vector<int> layers) {
  FusionConfig f;
  f.layers = std::move(layers);
  return f;
}
inline FusionConfig casa_before(std::vector<int> layers) {
  FusionConfig f = casa(std::move(layers));
  f.placement = Placement::before;
  f.norm = Sharing::own;
  return f;
}
inline FusionConfig casa_replace(std::vector<int> layers) {
  FusionConfig f = casa(std::move(layers));
  f.placement = Placement::replace;
  return f;
}
inline FusionConfig casa_shared(std::vector<int> layers) {
  FusionConfig f = casa(std::move(layers));
  f.parameters = Sharing::shared;
  return f;
}
inline FusionConfig cross_attention(std::vector<int> layers) {
  FusionConfig f = casa_before(std::move(layers));
  f.keys = Keys::image;
  f.image_rope = ImageRope::none;
  return f;
}
/// All of D1..D5 switched on: images as tokens of the stream, to rounding.
inline FusionConfig token_insertion(std::vector<int> layers) {
  FusionConfig f = casa_replace(std::move(layers));
  f.parameters = Sharing::shared;
  f.norm = Sharing::shared;
  f.update = ImageUpdate::attention_ffn;
  f.history = History::all;
  f.image_rope = ImageRope::stream;
  return f;
}

}  // namespace presets

/// The rotary embedding of a model.
struct RopeConfig {
  RopeStyle style = RopeStyle::half;
  double theta = 10000;
  std::optional<Llama3Scaling> llama3;
  std::vector<Index> mrope_sections;  ///< pairs that turn with t, h and w; empty: all with t
};

/// The frequencies that a config asks for, in the arithmetic of T.
template <Scalar T>
Rope make_rope(const RopeConfig& config, Index head_dim) {
  Rope rope = make_rope<T>(head_dim, config.theta, config.style);
  if (config.llama3) scale_llama3<T>(rope.inv_freq, *config.llama3);
  if (!config.mrope_sections.empty())
    rope.axis = mrope_axes(config.mrope_sections, rope.num_pairs());
  return rope;
}

/// The decoder, in the names of published configs.
struct DecoderConfig {
  Index hidden_size = 0;
  Index num_hidden_layers = 0;
  Index num_attention_heads = 0;
  Index num_key_value_heads = 0;
  Index head_dim = 0;
  Index intermediate_size = 0;
  Index vocab_size = 0;
  double rms_norm_eps = 1e-6;
  RopeConfig rope = {};
  bool attention_bias = false;      ///< bias on q, k, v
  bool attention_out_bias = false;  ///< bias on o
  bool mlp_bias = false;
  bool tie_word_embeddings = false;
  std::optional<FusionConfig> fusion;

  AttentionShape attention_shape() const {
    return {num_attention_heads, num_key_value_heads, head_dim};
  }
};

/// Throws casa::error naming the field, its bounds and its value, for any that is out of range or
/// does not fit the others.
inline void check(const DecoderConfig& c) {
  const auto range = [](const char* name, Index value, Index low, Index high) {
    require(value >= low && value <= high, "config: ", name, " must be in [", low, ", ", high,
            "], got ", value);
  };
  range("num_hidden_layers", c.num_hidden_layers, 1, 1024);
  range("num_attention_heads", c.num_attention_heads, 1, 1024);
  range("num_key_value_heads", c.num_key_value_heads, 1, 1024);
  range("head_dim", c.head_dim, 1, 1024);
  range("hidden_size", c.hidden_size, 1, 131072);
  range("intermediate_size", c.intermediate_size, 1, Index{1} << 20);
  range("vocab_size", c.vocab_size, 1, Index{1} << 21);
  require(c.num_attention_heads % c.num_key_value_heads == 0,
          "config: num_key_value_heads must divide num_attention_heads, got ",
          c.num_key_value_heads, " and ", c.num_attention_heads);
  require(c.head_dim % 2 == 0, "config: head_dim must be even for rotary embedding, got ",
          c.head_dim);
  require(c.rms_norm_eps > 0 && c.rms_norm_eps <= 1, "config: rms_norm_eps must be in (0, 1], got ",
          c.rms_norm_eps);
  if (!c.fusion) return;
  int previous = -1;
  for (const int layer : c.fusion->layers) {
    require(layer > previous && layer < c.num_hidden_layers,
            "config: fusion.layers must ascend in [0, ", c.num_hidden_layers, "), got ", layer,
            " after ", previous);
    previous = layer;
  }
  require(c.fusion->keys != Keys::text,
          "config: fusion.keys must be image or image_text, got text");
}

CASA_NAMESPACE_END
