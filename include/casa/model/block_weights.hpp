// The weights of one decoder block.
#pragma once

#include "casa/layers/swiglu.hpp"
#include "casa/linear/linear.hpp"

CASA_NAMESPACE_BEGIN

/// Projections of an attention layer. A Linear of weight W (out_features x in_features) computes
/// y = x W^T + b for rows x.
template <Scalar T>
struct AttentionWeights {
  /// Pieces 0, 1 and 2 are Wq (num_heads * head_dim x hidden_size), Wk and Wv (num_kv_heads *
  /// head_dim x hidden_size each), stacked so that one product gives q, k and v side by side.
  Linear<T> qkv;
  Linear<T> o;  ///< hidden_size x num_heads * head_dim
};

/// The weights of a block. What a block does not have is empty: which parts it has follows from
/// the config (block_spec in weights.hpp).
template <Scalar T>
struct BlockWeights {
  Buffer<T> input_norm;                  ///< RMSNorm before self-attention: hidden_size values
  AttentionWeights<T> self_attention;    ///< also fusion's, with Sharing::shared parameters
  Buffer<T> fusion_norm;                 ///< RMSNorm of text and images before fusion: hidden_size
  AttentionWeights<T> fusion_attention;  ///< of the same shapes as self_attention
  T fusion_gate = 0;              ///< with Gate::tanh fusion's update is multiplied by its tanh
  Buffer<T> token_gate;           ///< with Gate::token: w, hidden_size values
  Buffer<T> post_attention_norm;  ///< RMSNorm before the MLP: hidden_size values
  Mlp<T> mlp;                     ///< hidden_size -> intermediate_size -> hidden_size
};

CASA_NAMESPACE_END
