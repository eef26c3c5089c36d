// Names and shapes of the tensors of a model: the one list that loading, checking and saving share.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "casa/linear/linear.hpp"
#include "casa/model/config.hpp"

CASA_NAMESPACE_BEGIN

/// A tensor's name and shape: a matrix (rows, cols), or a vector (rows) where cols is 0.
struct TensorSpec {
  std::string name;  ///< as in files
  Index rows = 0;    ///< values of a vector; out_features of a projection's weight
  Index cols = 0;    ///< in_features of a projection's weight; 0: a vector
  /// The shape in files where it has more axes than two (rows is the first, cols the others).
  std::vector<Index> stored_shape = {};

  /// The shape in files: stored_shape, or else {rows} or {rows, cols}.
  std::vector<Index> shape() const {
    if (!stored_shape.empty()) return stored_shape;
    return cols == 0 ? std::vector<Index>{rows} : std::vector<Index>{rows, cols};
  }
};

/// A projection y = x W^T + b.
struct LinearSpec {
  TensorSpec weight;               ///< (out_features, in_features)
  std::optional<TensorSpec> bias;  ///< (out_features)
};

/// Projections of an attention layer; shapes of weights, (out_features, in_features).
struct AttentionSpec {
  LinearSpec q;  ///< (num_heads * head_dim, hidden_size)
  LinearSpec k;  ///< (num_kv_heads * head_dim, hidden_size)
  LinearSpec v;  ///< as k
  LinearSpec o;  ///< (hidden_size, num_heads * head_dim)
};

/// A gated MLP, down(silu(gate(x)) * up(x)); shapes of weights, (out_features, in_features).
struct MlpSpec {
  LinearSpec gate;  ///< (intermediate_size, hidden_size)
  LinearSpec up;    ///< as gate
  LinearSpec down;  ///< (hidden_size, intermediate_size)
};

/// The tensors of a block; shapes as in BlockWeights. What a block does not have is empty.
struct BlockSpec {
  std::optional<TensorSpec> input_norm;           ///< (hidden_size), before self-attention
  std::optional<AttentionSpec> self_attention;    ///< fusion's too, where parameters are shared
  std::optional<TensorSpec> fusion_norm;          ///< (hidden_size), where fusion's norm is its own
  std::optional<AttentionSpec> fusion_attention;  ///< where fusion's parameters are its own
  std::optional<TensorSpec> fusion_gate;          ///< (1), with Gate::tanh
  std::optional<TensorSpec> token_gate;           ///< (hidden_size), with Gate::token
  TensorSpec post_attention_norm;                 ///< (hidden_size), before the MLP
  MlpSpec mlp;                                    ///< hidden_size in and out
};

/// The tensors of a decoder.
struct DecoderSpec {
  TensorSpec embed_tokens;            ///< (vocab_size, hidden_size)
  std::vector<BlockSpec> blocks;      ///< num_hidden_layers of them
  TensorSpec norm;                    ///< (hidden_size), after the last block
  std::optional<TensorSpec> lm_head;  ///< (vocab_size, hidden_size); none: tied to embed_tokens
};

/// name.weight (out, in) and, with `bias`, name.bias (out).
inline LinearSpec linear_spec(const std::string& name, Index in, Index out, bool bias) {
  LinearSpec s{{name + ".weight", out, in, {}}, std::nullopt};
  if (bias) s.bias = TensorSpec{name + ".bias", out, 0};
  return s;
}

/// name.q_proj, k_proj, v_proj (with `bias`, if asked) and o_proj (with `out_bias`) of layers of
/// `hidden` values a token.
inline AttentionSpec attention_spec(const std::string& name, Index hidden, const AttentionShape& a,
                                    bool bias, bool out_bias) {
  const Index q = a.num_heads * a.head_dim, kv = a.num_kv_heads * a.head_dim;
  return {linear_spec(name + ".q_proj", hidden, q, bias),
          linear_spec(name + ".k_proj", hidden, kv, bias),
          linear_spec(name + ".v_proj", hidden, kv, bias),
          linear_spec(name + ".o_proj", q, hidden, out_bias)};
}

/// name.gate_proj, up_proj and down_proj.
inline MlpSpec mlp_spec(const std::string& name, Index hidden, Index intermediate, bool bias) {
  return {linear_spec(name + ".gate_proj", hidden, intermediate, bias),
          linear_spec(name + ".up_proj", hidden, intermediate, bias),
          linear_spec(name + ".down_proj", intermediate, hidden, bias)};
}

/// The tensors of block `layer`, whose names begin with `name` ("model.layers.3"). Follows the
/// config: with Placement::replace, for instance, a block has no self-attention of its own unless
/// fusion shares its parameters.
inline BlockSpec block_spec(const DecoderConfig& c, Index layer, const std::string& name) {
  BlockSpec b;
  const bool has_fusion = c.fusion && c.fusion->has_layer(layer);
  const FusionConfig plain;
  const FusionConfig& f = has_fusion ? *c.fusion : plain;
  const bool replaced = has_fusion && f.placement == Placement::replace;
  const auto attention = [&](const char* part) {
    return attention_spec(name + part, c.hidden_size, c.attention_shape(), c.attention_bias,
                          c.attention_out_bias);
  };
  const auto norm = [&](const char* part) { return TensorSpec{name + part, c.hidden_size, 0}; };
  if (!replaced || f.parameters == Sharing::shared) b.self_attention = attention(".self_attn");
  if (!replaced || f.parameters == Sharing::shared || f.norm == Sharing::shared)
    b.input_norm = norm(".input_layernorm.weight");
  if (has_fusion) {
    if (f.parameters == Sharing::own) b.fusion_attention = attention(".fusion_attn");
    if (f.norm == Sharing::own) b.fusion_norm = norm(".fusion_layernorm.weight");
    if (f.gate == Gate::tanh) b.fusion_gate = TensorSpec{name + ".fusion_gate", 1, 0};
    if (f.gate == Gate::token) b.token_gate = norm(".fusion_token_gate");
  }
  b.post_attention_norm = norm(".post_attention_layernorm.weight");
  b.mlp = mlp_spec(name + ".mlp", c.hidden_size, c.intermediate_size, c.mlp_bias);
  return b;
}

/// The tensors of a decoder under the names of the Hugging Face layout; `prefix` is what stands
/// before "embed_tokens", "layers.0" and so on.
inline DecoderSpec decoder_spec(const DecoderConfig& c, const std::string& prefix = "model.",
                                const std::string& head = "lm_head.weight") {
  DecoderSpec s;
  s.embed_tokens = {prefix + "embed_tokens.weight", c.vocab_size, c.hidden_size};
  for (Index layer = 0; layer < c.num_hidden_layers; ++layer)
    s.blocks.push_back(block_spec(c, layer, prefix + "layers." + std::to_string(layer)));
  s.norm = {prefix + "norm.weight", c.hidden_size, 0};
  if (!c.tie_word_embeddings) s.lm_head = TensorSpec{head, c.vocab_size, c.hidden_size};
  return s;
}

/// Calls f(spec) for every tensor, a TensorSpec, in the order of computation.
template <class F>
void for_each_tensor(const LinearSpec& s, F&& f) {
  f(s.weight);
  if (s.bias) f(*s.bias);
}
/// The same for an attention layer.
template <class F>
void for_each_tensor(const AttentionSpec& s, F&& f) {
  for (const LinearSpec* l : {&s.q, &s.k, &s.v, &s.o}) for_each_tensor(*l, f);
}
/// The same for an MLP.
template <class F>
void for_each_tensor(const MlpSpec& s, F&& f) {
  for (const LinearSpec* l : {&s.gate, &s.up, &s.down}) for_each_tensor(*l, f);
}
/// The same for a block.
template <class F>
void for_each_tensor(const BlockSpec& s, F&& f) {
  if (s.fusion_norm) f(*s.fusion_norm);
  if (s.fusion_attention) for_each_tensor(*s.fusion_attention, f);
  if (s.fusion_gate) f(*s.fusion_gate);
  if (s.token_gate) f(*s.token_gate);
  if (s.input_norm) f(*s.input_norm);
  if (s.self_attention) for_each_tensor(*s.self_attention, f);
  f(s.post_attention_norm);
  for_each_tensor(s.mlp, f);
}
/// The same for a decoder.
template <class F>
void for_each_tensor(const DecoderSpec& s, F&& f) {
  f(s.embed_tokens);
  for (const BlockSpec& b : s.blocks) for_each_tensor(b, f);
  f(s.norm);
  if (s.lm_head) f(*s.lm_head);
}

CASA_NAMESPACE_END
