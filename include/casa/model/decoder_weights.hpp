// The weights of a decoder, and the check that they fit a config.
#pragma once

#include <string>
#include <vector>

#include "casa/model/block_weights.hpp"
#include "casa/model/weights.hpp"

CASA_NAMESPACE_BEGIN

/// The weights of a decoder, packed.
template <Scalar T>
struct DecoderWeights {
  Linear<T> embed;                      ///< vocab_size x hidden_size: row i is token i's embedding
  std::vector<BlockWeights<T>> blocks;  ///< num_hidden_layers
  Buffer<T> norm;                       ///< RMSNorm before the head: hidden_size values
  Linear<T> lm_head;                    ///< vocab_size x hidden_size; empty: embed serves as head
};

namespace detail {

/// Throws casa::error unless `l` maps `in` to `out` values.
template <Scalar T>
void check_linear(const std::string& name, const Linear<T>& l, Index in, Index out) {
  if (l.in_features() != in || l.out_features() != out)
    fail("weights: ", name, ": expected ", out, " x ", in, " values, got ", l.out_features(), " x ",
         l.in_features());
}

template <Scalar T>
void check_attention(const std::string& name, const AttentionWeights<T>& a,
                     const DecoderConfig& c) {
  const Index q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  check_linear(name + " q, k, v", a.qkv, c.hidden_size, q + 2 * kv);
  check_linear(name + " o", a.o, q, c.hidden_size);
  require(a.qkv.num_pieces() == 3 && a.qkv.piece_begin(1) == q && a.qkv.piece_begin(2) == q + kv,
          "weights: ", name, " q, k, v: expected three pieces of ", q, ", ", kv, " and ", kv,
          " outputs");
}

template <Scalar T>
void check_block(const std::string& name, const BlockWeights<T>& b, const BlockSpec& has,
                 const DecoderConfig& c) {
  const auto norm = [&](const char* part, const Buffer<T>& values) {
    if (values.size() != c.hidden_size)
      fail("weights: ", name, part, ": expected ", c.hidden_size, " values, got ", values.size());
  };
  if (has.input_norm) norm(" input_norm", b.input_norm);
  if (has.self_attention) check_attention(name + " self_attention", b.self_attention, c);
  if (has.fusion_norm) norm(" fusion_norm", b.fusion_norm);
  if (has.fusion_attention) check_attention(name + " fusion_attention", b.fusion_attention, c);
  if (has.token_gate) norm(" token_gate", b.token_gate);
  norm(" post_attention_norm", b.post_attention_norm);
  check_linear(name + " mlp gate, up", b.mlp.gate_up(), c.hidden_size, 2 * c.intermediate_size);
  check_linear(name + " mlp down", b.mlp.down(), c.intermediate_size, c.hidden_size);
}

}  // namespace detail

/// Throws casa::error, naming it, for a weight that a decoder of this config needs and that is
/// missing or of another size.
template <Scalar T>
void check(const DecoderConfig& c, const DecoderWeights<T>& w) {
  detail::check_linear<T>("embed", w.embed, c.hidden_size, c.vocab_size);
  require_equal("weights: blocks", static_cast<Index>(w.blocks.size()), c.num_hidden_layers);
  for (Index layer = 0; layer < c.num_hidden_layers; ++layer)
    detail::check_block(text("block ", layer), w.blocks[static_cast<std::size_t>(layer)],
                        block_spec(c, layer, ""), c);
  require_equal("weights: values of norm", w.norm.size(), c.hidden_size);
  if (!c.tie_word_embeddings)
    detail::check_linear<T>("lm_head", w.lm_head, c.hidden_size, c.vocab_size);
}

CASA_NAMESPACE_END
