// The shape of SmolLM2-135M, for the benchmarks of whole models.
#pragma once

#include "casa/model/config.hpp"

namespace bench {

inline casa::DecoderConfig smollm2() {
  casa::DecoderConfig c;
  c.hidden_size = 576;
  c.num_hidden_layers = 30;
  c.num_attention_heads = 9;
  c.num_key_value_heads = 3;
  c.head_dim = 64;
  c.intermediate_size = 1536;
  c.vocab_size = 49152;
  c.rope.theta = 100000;
  c.tie_word_embeddings = true;
  return c;
}

}  // namespace bench
