// Configs: the sizes of a decoder, its rotary embedding, and how its text looks at images.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "casa/attention/attend.hpp"
#include "casa/core/error.hpp"
#include "casa/layers/rope_scaling.hpp"
#include "casa/stream/positions.hpp"
#include "casa/stream/visibility_rule.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Where a block adds fusion's update F to the hidden state h, beside self-attention SA (difference
/// D3 of arXiv 2512.19535).
enum class Placement {
  before,    ///< h += F(h), then h += SA(h)
  parallel,  ///< h += SA(h) + F(h)
  replace    ///< h += F(h)
};
/// Whether fusion has weights of its own or uses those of the block's self-attention (D1); likewise
/// for its norm.
enum class Sharing { own, shared };
/// What image tokens go through in a block with fusion (D4).
enum class ImageUpdate {
  none,          ///< nothing: all blocks see the image tokens as they were given
  ffn,           ///< the MLP
  attention_ffn  ///< attention, over the keys up to the token's own, then the MLP
};
/// What F is multiplied by.
enum class Gate {
  none,  ///< nothing
  tanh,  ///< tanh of a learned number (arXiv 2204.14198)
  /// g = sigmoid(w . RMSNorm(h)) of each text token, w learned; self-attention, which stands
  /// parallel, is multiplied by 1 - g (arXiv 2408.04840, section 2.2). For a token that sees no key
  /// g is 0.
  token
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// How text looks at images: a point of the design space that holds CASA, cross-attention and token
/// insertion. Data only; equal configs behave equally.
struct FusionConfig {
  Keys keys = Keys::image_text;               ///< which tokens text sees: image or image_text (D2)
  Placement placement = Placement::parallel;  ///< where in a block (D3)
  Sharing parameters = Sharing::own;          ///< of its projections q, k, v, o (D1)
  Sharing norm = Sharing::shared;             ///< of its RMSNorm (D1)
  ImageUpdate update = ImageUpdate::none;     ///< how image tokens change in its blocks (D4)
  History history = History::window;          ///< which windows are seen (D5)
  ImageRope image_rope = ImageRope::window_start;  ///< rotary positions of image keys
  Gate gate = Gate::none;                          ///< factor of the update
  std::vector<int> layers;                         ///< blocks that have it, ascending
  /// A rule of your own, which is then followed in place of `history`. No config.json can name it.
  std::shared_ptr<const VisibilityRule> rule = {};

  /// Whether block `layer` has fusion.
  bool has_layer(Index layer) const {
    for (const int l : layers)
      if (l == layer) return true;
    return false;
  }
  /// Whether the number of windows that are kept is bounded. (Of a rule that is taken for granted.)
  bool is_bounded() const { return rule || history.rule == History::Rule::last; }
  friend bool operator==(const FusionConfig&, const FusionConfig&) = default;
};

/// Named points of the design space. All take the blocks that have fusion.
namespace presets {

/// CASA beside self-attention, with weights of its own (arXiv 2512.19535, section 3).
inline FusionConfig casa(std::vector<int> layers) {
  FusionConfig f;
  f.layers = std::move(layers);
  return f;
}
/// CASA before self-attention, with weights and a norm of its own.
inline FusionConfig casa_before(std::vector<int> layers) {
  FusionConfig f = casa(std::move(layers));
  f.placement = Placement::before;
  f.norm = Sharing::own;
  return f;
}
/// CASA in place of self-attention.
inline FusionConfig casa_replace(std::vector<int> layers) {
  FusionConfig f = casa(std::move(layers));
  f.placement = Placement::replace;
  return f;
}
/// CASA beside self-attention, with the weights of self-attention.
inline FusionConfig casa_shared(std::vector<int> layers) {
  FusionConfig f = casa(std::move(layers));
  f.parameters = Sharing::shared;
  return f;
}
/// Cross-attention before self-attention: text sees the images of its window and no text.
inline FusionConfig cross_attention(std::vector<int> layers) {
  FusionConfig f = casa_before(std::move(layers));
  f.keys = Keys::image;
  f.image_rope = ImageRope::none;
  return f;
}
/// All of D1..D5 switched on: with all layers named, logits are those of a model that has images as
/// tokens of its stream, to rounding.
inline FusionConfig token_insertion(std::vector<int> layers) {
  FusionConfig f = casa_replace(std::move(layers));
  f.parameters = Sharing::shared;
  f.norm = Sharing::shared;
  f.update = ImageUpdate::attention_ffn;
  f.history = History::all;
  f.image_rope = ImageRope::stream;
  return f;
}
/// The cross-attention of Flamingo (arXiv 2204.14198, section 2): before a block text sees the
/// image before it, without positions, and tanh of a learned number, 0 at first, is the update's
/// factor. (Flamingo's blocks have a gated MLP of their own after it, which is no part of this.)
inline FusionConfig flamingo(std::vector<int> layers) {
  FusionConfig f = cross_attention(std::move(layers));
  f.image_rope = ImageRope::off;
  f.gate = Gate::tanh;
  return f;
}
/// The cross-attention of EVLM (arXiv 2407.14177), which is Flamingo's. Its learned tokens, which
/// stand for an image in the text, are text tokens to the decoder.
inline FusionConfig evlm(std::vector<int> layers) { return flamingo(std::move(layers)); }
/// The cross-attention of Llama 3.2 Vision: blocks that have it have no self-attention, and their
/// gate is that of Flamingo. (Its norms of each head and its MLP's gate are no part of this.)
inline FusionConfig llama_vision(std::vector<int> layers) {
  FusionConfig f = flamingo(std::move(layers));
  f.placement = Placement::replace;
  return f;
}
/// The attention of mPLUG-Owl3's blocks (arXiv 2408.04840, section 2.2) as one softmax: text sees
/// all images before it and all text up to itself, with the weights of self-attention; an image
/// stands at one position, that of the text after it, and its tokens never change.
inline FusionConfig mplug_owl3(std::vector<int> layers) {
  FusionConfig f = casa_replace(std::move(layers));
  f.parameters = Sharing::shared;
  f.history = History::all;
  return f;
}
/// The attention of mPLUG-Owl3's blocks as the paper has it: cross-attention to all images before a
/// token stands beside self-attention, on the same normed text, and a gate of each token weighs the
/// two. (The paper's queries are those of self-attention; here fusion has queries of its own, which
/// can be a copy of them.)
inline FusionConfig mplug_owl3_gated(std::vector<int> layers) {
  FusionConfig f = casa(std::move(layers));
  f.keys = Keys::image;
  f.history = History::all;
  f.gate = Gate::token;
  return f;
}

}  // namespace presets

/// The rotary embedding of a model.
struct RopeConfig {
  RopeStyle style = RopeStyle::half;       ///< which values of a head are rotated together
  double theta = 10000;                    ///< base of the frequencies, theta^(-2i / head_dim)
  RopeScaling scaling = {};                ///< for streams longer than the trained length
  std::vector<Index> mrope_sections = {};  ///< pairs that read t, h and w; empty: all read t

  /// Whether frequencies depend on how long a stream has become.
  bool is_dynamic() const { return std::holds_alternative<DynamicScaling>(scaling); }
  friend bool operator==(const RopeConfig&, const RopeConfig&) = default;
};

/// Where scaling is dynamic, gives `rope`, which make_rope(config, head_dim) made, the frequencies
/// of a stream of `length` positions. Allocates nothing.
template <Scalar T>
void set_length(Rope& rope, const RopeConfig& config, Index head_dim, std::int64_t length) {
  const auto* dynamic = std::get_if<DynamicScaling>(&config.scaling);
  if (!dynamic) return;
  const double theta = dynamic_theta<T>(config.theta, head_dim, *dynamic, length);
  for (std::size_t i = 0; i < rope.inv_freq.size(); ++i)
    rope.inv_freq[i] =
        static_cast<double>(T{1} / detail::rope_power<T>(static_cast<Index>(i), head_dim, theta));
}

/// The rotary embedding of a config, its frequencies computed in T; where scaling is dynamic, those
/// of a short stream. Throws casa::error for a scaling out of range.
template <Scalar T>
Rope make_rope(const RopeConfig& config, Index head_dim) {
  Rope rope = make_rope<T>(head_dim, config.theta, config.style);
  if (const auto* linear = std::get_if<LinearScaling>(&config.scaling))
    scale_linear<T>(rope.inv_freq, *linear);
  if (const auto* llama3 = std::get_if<Llama3Scaling>(&config.scaling))
    scale_llama3<T>(rope.inv_freq, *llama3);
  if (const auto* yarn = std::get_if<YarnScaling>(&config.scaling)) {
    rope.inv_freq = yarn_inv_freq<T>(head_dim, config.theta, *yarn);
    rope.magnitude = attention_factor(*yarn);
  }
  set_length<T>(rope, config, head_dim, 0);
  if (!config.mrope_sections.empty())
    rope.axis = mrope_axes(config.mrope_sections, rope.num_pairs());
  return rope;
}

/// The decoder, in the names of published configs.
struct DecoderConfig {
  Index hidden_size = 0;          ///< values of a token between blocks, image tokens' too
  Index num_hidden_layers = 0;    ///< blocks
  Index num_attention_heads = 0;  ///< query heads; a multiple of num_key_value_heads
  Index num_key_value_heads = 0;  ///< heads of keys and values
  Index head_dim = 0;             ///< values of a head; need not be hidden_size / heads
  Index intermediate_size = 0;    ///< values of a token inside the MLP
  Index vocab_size = 0;           ///< token ids are in [0, vocab_size); columns of the logits
  double rms_norm_eps = 1e-6;     ///< added to the mean square of every RMSNorm, in (0, 1]
  RopeConfig rope = {};           ///< of self-attention and, as fusion->image_rope says, of fusion
  bool attention_bias = false;    ///< bias on q, k, v
  bool attention_out_bias = false;   ///< bias on o
  bool mlp_bias = false;             ///< bias on gate, up and down
  bool tie_word_embeddings = false;  ///< logits are products with embed_tokens: no lm_head
  /// In the blocks of sliding_layers (ascending) a row sees itself and the sliding_window - 1
  /// tokens before it.
  Index sliding_window = 0;
  std::vector<int> sliding_layers = {};  ///< blocks with a sliding window, ascending
  std::optional<FusionConfig> fusion;    ///< how text looks at images; none: it takes no images

  /// The heads of self-attention and of fusion.
  AttentionShape attention_shape() const {
    return {num_attention_heads, num_key_value_heads, head_dim};
  }
  /// Whether block `layer` has a sliding window.
  bool slides(Index layer) const {
    for (const int l : sliding_layers)
      if (l == layer) return true;
    return false;
  }
  friend bool operator==(const DecoderConfig&, const DecoderConfig&) = default;
};

/// Throws casa::error naming the field, its bounds and its value, for any that is out of range or
/// does not fit the others.
inline void check(const DecoderConfig& c) {
  const auto range = [](const char* name, Index value, Index low, Index high) {
    require(value >= low && value <= high, "config: ", name, " must be in [", low, ", ", high,
            "], got ", value);
  };
  // Products of two sizes fit an Index.
  constexpr Index most = sizeof(Index) >= 8 ? (std::numeric_limits<std::int32_t>::max)() : 46'340;
  range("num_hidden_layers", c.num_hidden_layers, 1, most);
  range("num_attention_heads", c.num_attention_heads, 1, most);
  range("num_key_value_heads", c.num_key_value_heads, 1, most);
  range("head_dim", c.head_dim, 1, most);
  range("hidden_size", c.hidden_size, 1, most);
  range("intermediate_size", c.intermediate_size, 1, most);
  range("vocab_size", c.vocab_size, 1, most);
  require(c.num_attention_heads % c.num_key_value_heads == 0,
          "config: num_key_value_heads must divide num_attention_heads, got ",
          c.num_key_value_heads, " and ", c.num_attention_heads);
  require(c.head_dim % 2 == 0, "config: head_dim must be even for rotary embedding, got ",
          c.head_dim);
  require(c.rms_norm_eps > 0 && c.rms_norm_eps <= 1, "config: rms_norm_eps must be in (0, 1], got ",
          c.rms_norm_eps);
  const auto ascending = [&](const char* name, const std::vector<int>& layers) {
    int previous = -1;
    for (const int layer : layers) {
      require(layer > previous && layer < c.num_hidden_layers, "config: ", name,
              " must ascend in [0, ", c.num_hidden_layers, "), got ", layer, " after ", previous);
      previous = layer;
    }
  };
  ascending("sliding_layers", c.sliding_layers);
  require(c.sliding_layers.empty() || c.sliding_window >= 1,
          "config: sliding_window must be positive where sliding_layers are named, got ",
          c.sliding_window);
  if (!c.fusion) return;
  ascending("fusion.layers", c.fusion->layers);
  require(c.fusion->keys != Keys::text,
          "config: fusion.keys must be image or image_text, got text");
  if (!c.fusion->rule) check("config: fusion.history", c.fusion->history);
  require(c.fusion->gate != Gate::token || c.fusion->placement == Placement::parallel,
          "config: fusion.gate token weighs fusion against self-attention: placement must be "
          "parallel");
  require(c.fusion->gate != Gate::token || c.fusion->update != ImageUpdate::attention_ffn,
          "config: fusion.gate token is a gate of text tokens: update must be none or ffn, got "
          "attention+ffn");
  require(
      c.sliding_layers.empty() || c.fusion->placement != Placement::replace ||
          c.fusion->keys != Keys::image_text ||
          (!c.fusion->rule && c.fusion->history.is_one_interval()),
      "config: sliding_layers bound fusion in place of self-attention with keys image_text, and "
      "need its history window, last or all there, got every or a rule");
}

CASA_NAMESPACE_END
