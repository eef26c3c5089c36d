// Adds fusion layers to a decoder that was trained on text, as the start of training one that looks
// at images (arXiv 2512.19535, section 3: CASA layers begin as copies of self-attention).
#pragma once

#include <algorithm>
#include <utility>

#include "casa/model/decoder.hpp"

CASA_NAMESPACE_BEGIN

/// A copy of the decoder with fusion as `fusion` says, in place of any it had. Weights that fusion
/// does not share begin as copies of the block's self-attention and norm. Gates begin at 0: with
/// Gate::tanh the update is 0 then and logits are those of the decoder without images; with
/// Gate::token fusion and self-attention weigh one half each where a token sees a key. Shared
/// parameters add no weights. Throws casa::error for a fusion that does not fit the decoder, and
/// where a block has no self-attention to copy or to keep (an earlier fusion has replaced it).
template <Scalar T>
Decoder<T> add_fusion(const Decoder<T>& decoder, const FusionConfig& fusion) {
  DecoderConfig config = decoder.config();
  config.fusion = fusion;
  check(config);
  DecoderWeights<T> weights = decoder.weights();
  for (Index layer = 0; layer < config.num_hidden_layers; ++layer) {
    BlockWeights<T>& b = weights.blocks[static_cast<std::size_t>(layer)];
    require(b.self_attention.qkv.out_features() > 0 && b.input_norm.size() > 0,
            "add_fusion: block ", layer, " has no self-attention with its norm");
    b.fusion_attention = {};
    b.fusion_norm = {};
    b.fusion_gate = T{0};
    b.token_gate = {};
    if (!fusion.has_layer(layer)) continue;
    if (fusion.parameters == Sharing::own) b.fusion_attention = b.self_attention;
    if (fusion.norm == Sharing::own) b.fusion_norm = b.input_norm;
    if (fusion.gate == Gate::token) {
      b.token_gate = Buffer<T>(config.hidden_size);
      std::fill_n(b.token_gate.data(), b.token_gate.size(), T{0});
    }
    const bool replaced =
        fusion.placement == Placement::replace && fusion.parameters == Sharing::own;
    if (replaced) b.self_attention = {};
    if (replaced && fusion.norm == Sharing::own) b.input_norm = {};
  }
  return Decoder<T>(config, std::move(weights));
}

CASA_NAMESPACE_END
